"""Sparse products of an SAE: cost and memory follow the active pairs, not ``n x d_sae``.

Exact, deterministic run to run, on CPU and CUDA alike; the dense encoder product stays with the caller.
"""

from sae_lightning.sae.kernels.pattern import SparsePattern, pattern_of
from sae_lightning.sae.kernels.select import above, batch_top_k, group_max, row_top_k
from sae_lightning.sae.kernels.sparse import gather_features, sparse_decode, sparse_encode

__all__ = [
    "SparsePattern",
    "above",
    "batch_top_k",
    "gather_features",
    "group_max",
    "pattern_of",
    "row_top_k",
    "sparse_decode",
    "sparse_encode",
]
