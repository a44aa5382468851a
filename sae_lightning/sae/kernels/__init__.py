"""Sparse products of an SAE: cost and memory follow the active pairs, not ``n x d_sae``.

Exact, deterministic run to run, on CPU and CUDA alike. The dense encoder product goes by in blocks of features.
"""

from sae_lightning.sae.kernels.across import GlobalBatchTopK, GlobalRowTopK, all_parts, own_part, row_winners
from sae_lightning.sae.kernels.pattern import SparsePattern, pattern_of
from sae_lightning.sae.kernels.product import Execution, pre_act_blocks
from sae_lightning.sae.kernels.selectors import Above, AboveEach, BatchTopK, Chosen, GroupMax, RowTopK, Selector
from sae_lightning.sae.kernels.sparse import gather_features, pair_pre_acts, sparse_decode, sparse_encode

__all__ = [
    "Above",
    "AboveEach",
    "BatchTopK",
    "Chosen",
    "Execution",
    "GlobalBatchTopK",
    "GlobalRowTopK",
    "GroupMax",
    "RowTopK",
    "Selector",
    "SparsePattern",
    "all_parts",
    "gather_features",
    "own_part",
    "pair_pre_acts",
    "pattern_of",
    "pre_act_blocks",
    "row_winners",
    "sparse_decode",
    "sparse_encode",
]
