"""Sparse autoencoders: one file per architecture, and how they start, fold, and are saved.

Features stay sparse end to end where the architecture is; nothing here knows losses or training.
"""

from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.fold import fold, unfold
from sae_lightning.sae.forms import InitDefaults
from sae_lightning.sae.gated import GatedSAE
from sae_lightning.sae.geometry import decoder_norms, geometric_median, remove_parallel_gradient, renormalise
from sae_lightning.sae.init import initialise
from sae_lightning.sae.jumprelu import JumpReLUSAE
from sae_lightning.sae.kernels import gather_features
from sae_lightning.sae.matryoshka import MatryoshkaSAE
from sae_lightning.sae.selective import SelectiveAutoencoder
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.sae.topk import TopKSAE

# isort: split
from sae_lightning.sae.registry import architecture_names, sae_class

# isort: split
from sae_lightning.sae.io import load_sae, save_sae
from sae_lightning.sae.sample import SAMPLE_ROWS

__all__ = [
    "SAMPLE_ROWS",
    "BatchTopKSAE",
    "GatedSAE",
    "InitDefaults",
    "JumpReLUSAE",
    "MatryoshkaSAE",
    "SelectiveAutoencoder",
    "SparseAutoencoder",
    "StandardSAE",
    "TopKSAE",
    "architecture_names",
    "decoder_norms",
    "fold",
    "gather_features",
    "geometric_median",
    "initialise",
    "load_sae",
    "remove_parallel_gradient",
    "renormalise",
    "sae_class",
    "save_sae",
    "unfold",
]
