"""The frozen language model: read at named sites, run with replacements, never trained and never in a checkpoint.
Only ``bridge`` imports transformer_lens; everything above sees tokens, site names and tensors."""

from sae_lightning.lm.crossentropy import kl, loss, predicted
from sae_lightning.lm.frozen_lm import FrozenLM
from sae_lightning.lm.lazy import LazyLM
from sae_lightning.lm.pair import PairedLM
from sae_lightning.lm.run import Ran
from sae_lightning.lm.sites import SiteKind, resolve_sites, resume_site, site_layer
from sae_lightning.lm.tokenizer import load_tokenizer

__all__ = [
    "FrozenLM",
    "LazyLM",
    "PairedLM",
    "Ran",
    "SiteKind",
    "kl",
    "load_tokenizer",
    "loss",
    "predicted",
    "resolve_sites",
    "resume_site",
    "site_layer",
]
