"""Sparse features of a corpus with their provenance, on disk: what fires on a token, and where a feature fires.

Plain memory-mapped ``.npy`` files with a checksummed manifest, built in bounded memory and resumable; no pickles.
"""

from sae_lightning.store.arrays import Sparse
from sae_lightning.store.feature_store import Context, FeatureStore, Hits, Sample
from sae_lightning.store.provenance import Corpus
from sae_lightning.store.reading import Reader, TextActivations, check_same_sae, open_reader, sae_sha256
from sae_lightning.store.transpose import FeatureStats
from sae_lightning.store.writer import Plan, build_store

__all__ = [
    "Context",
    "Corpus",
    "FeatureStats",
    "FeatureStore",
    "Hits",
    "Plan",
    "Reader",
    "Sample",
    "Sparse",
    "TextActivations",
    "build_store",
    "check_same_sae",
    "open_reader",
    "sae_sha256",
]
