"""The same work in plain torch: what the kernels are compared with, in time and in result."""

import torch
from torch import Tensor
from torch.nn import functional

from sae_lightning.sae import remove_parallel_gradient, renormalise
from sae_lightning.sae.kernels import SparsePattern


def row_top_k(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return (indices, values) of the ``k`` largest of each row."""
    best = z.topk(k, dim=1)
    return best.indices, best.values


def largest_places(flat: Tensor, count: int) -> Tensor:
    """Return the sorted places of the ``count`` largest."""
    return flat.topk(count, sorted=False).indices.sort().values


def sum_rows(matrix: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of rows of each bag."""
    return functional.embedding_bag(
        indices, matrix, offsets, mode="sum", per_sample_weights=weights.to(matrix.dtype), include_last_offset=True
    )


def by_feature(rows: Tensor, values: Tensor, pattern: SparsePattern) -> Tensor:
    """Return the weighted sum of rows of each feature."""
    t = pattern.transpose
    return sum_rows(rows, t.rows, t.offsets, values[t.order])


def by_feature_atomic(rows: Tensor, values: Tensor, pattern: SparsePattern) -> Tensor:
    """The same with atomic sums, whose last bits change from run to run."""
    out = torch.zeros(pattern.d_sae, rows.shape[1], dtype=rows.dtype, device=rows.device)
    return out.index_add_(0, pattern.indices, rows[pattern.rows] * values[:, None].to(rows.dtype))


def sum_by_feature(values: Tensor, pattern: SparsePattern) -> Tensor:
    """Return each feature's sum of values."""
    t = pattern.transpose
    return sum_rows(values[:, None], t.order, t.offsets, torch.ones_like(values))[:, 0]


def dot_rows(left: Tensor, right: Tensor, pattern: SparsePattern) -> Tensor:
    """Return the dot product of each pair."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right.to(left.dtype), pattern.indices, pattern.offsets, pattern.rows, 0
    )


def adam(weights: list[Tensor], moments: tuple[list[Tensor], list[Tensor]], steps: list[Tensor], decoder: int) -> None:
    """Project, clip, torch's fused Adam, renormalise: one after the other."""
    remove_parallel_gradient(weights[decoder])
    grads = [w.grad for w in weights if w.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    scale = (norm + 1e-6).clamp(min=1.0)
    torch.ops.aten._fused_adam_(
        weights, grads, *moments, [], steps, lr=1e-4, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8,
        amsgrad=False, maximize=False, grad_scale=scale, found_inf=None,
    )  # fmt: skip
    renormalise(weights[decoder])
