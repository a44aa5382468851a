"""Activations kept on disk: read from the language model once, shared by every run that reads the same text.

``ensure`` builds what is missing, ``CachedHarvester`` and ``CachedSource`` stand where ``Harvester`` and
``StreamSource`` do and give the same bits.
"""

from sae_lightning.activations.cache.budget import CacheTooBig
from sae_lightning.activations.cache.catalogue import Listed, catalogue, choose, remove, verify
from sae_lightning.activations.cache.harvester import CachedHarvester
from sae_lightning.activations.cache.key import default_root
from sae_lightning.activations.cache.reader import ActivationCache
from sae_lightning.activations.cache.request import CacheRequest, ensure, open_caches
from sae_lightning.activations.cache.source import CachedSource

__all__ = [
    "ActivationCache",
    "CacheRequest",
    "CacheTooBig",
    "CachedHarvester",
    "CachedSource",
    "Listed",
    "catalogue",
    "choose",
    "default_root",
    "ensure",
    "open_caches",
    "remove",
    "verify",
]
