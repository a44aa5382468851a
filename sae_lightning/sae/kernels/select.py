"""Which pre-activations are kept: per row, over the batch, per group, or above a threshold.

All are exact and deterministic. A row's top-k depends on that row alone.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lightning.sae.kernels import triton
from sae_lightning.sae.kernels.backend import use_triton

_SAMPLE = 1 << 16
RowBest = tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]


def row_top_k(z: Float[Tensor, "n d_sae"], k: int) -> RowBest:
    """Return (indices, values) of the ``k`` largest of each row, largest first."""
    if use_triton(z):
        return triton.row_top_k(z, k)
    best = z.topk(min(k, z.shape[1]), dim=1)
    return best.indices, best.values


def row_top_k_signed(z: Float[Tensor, "n d_sae"], k: int) -> RowBest:
    """Return (indices, values) of the ``k`` largest of each row in absolute value, largest first."""
    # Both ends, and no copy of the absolute values of everything.
    k = min(k, z.shape[1])
    high, low = z.topk(k, dim=1), z.topk(k, dim=1, largest=False)
    indices, values = torch.cat([high.indices, low.indices], 1), torch.cat([high.values, low.values], 1)
    if 2 * k > z.shape[1]:
        # The ends overlap: count what is in both once.
        taken = torch.zeros(z.shape, dtype=torch.bool, device=z.device).scatter_(1, high.indices, True)
        values[:, k:] = values[:, k:].masked_fill(taken.gather(1, low.indices), 0.0)
        indices[:, k:] = torch.where(taken.gather(1, low.indices), -1, low.indices)
    score = values.abs().masked_fill(indices < 0, -1.0)
    best = score.topk(k, dim=1).indices
    return indices.gather(1, best), values.gather(1, best)


def group_max(z: Float[Tensor, "n d_sae"], size: int, keep: int = 1) -> RowBest:
    """Return (indices, values) of the ``keep`` largest of each group of ``size`` features, in order of the groups."""
    n, d_sae = z.shape
    groups = z.reshape(n, d_sae // size, size)
    first = torch.arange(d_sae // size, device=z.device) * size
    if keep == 1:
        best = groups.max(-1)
        return best.indices + first, best.values
    values, indices = groups.topk(keep, dim=-1)
    return (indices + first[:, None]).flatten(1), values.flatten(1)


def largest_places(
    flat: Float[Tensor, "size"], count: int, width: int = 1, at_least: float | None = None
) -> Int[Tensor, "kept"]:
    """Return the sorted places of the ``count`` largest entries; among equals the first.

    On the CPU only positive entries are kept; elsewhere always ``count``. width: features of a row, all of which a
    sample of the entries should see. at_least: entries below it need not be kept.
    """
    if use_triton(flat):
        return triton.largest_places(flat, count)
    if flat.device.type != "cpu":
        return flat.topk(count, sorted=False).indices.sort().values
    bound = _lower_bound(flat, count, width) if at_least is None else at_least
    candidates = _at_least(flat, bound)
    if at_least is None and bound > 0 and len(candidates) < count:
        candidates = _at_least(flat, 0.0)
    if len(candidates) <= count:
        return candidates
    values = flat[candidates]
    last = values.topk(count, sorted=False).values.min()
    greater, equal = ~(values <= last), values == last
    room = count - greater.sum()
    return candidates[greater | (equal & (equal.cumsum(0) <= room))]


def true_places(mask: Bool[Tensor, "..."]) -> Int[Tensor, "kept"]:
    """Return the sorted places of True in ``mask.reshape(-1)``.

    Eight at a time on the CPU: few are True, and most words of eight are 0 (4 ms against 30 at 33M).
    """
    flat = mask.reshape(-1)
    if flat.device.type != "cpu" or flat.numel() % 8 or flat.storage_offset() % 8:
        return flat.nonzero()[:, 0]
    words = flat.view(torch.int64).nonzero()[:, 0]
    inside = flat.view(-1, 8)[words]
    return (words[:, None] * 8 + torch.arange(8))[inside]


def floor_to(threshold: Float[Tensor, ""], dtype: torch.dtype) -> Float[Tensor, ""]:
    """Return the largest ``dtype`` number not above ``threshold``: ``z > t`` and ``z > floor_to(t)`` agree."""
    near = threshold.to(dtype)
    below = torch.nextafter(near, torch.full_like(near, -math.inf))
    return torch.where(near.to(torch.float64) > threshold, below, near)


def csr(places: Int[Tensor, "nnz"], n: int, d_sae: int) -> tuple[Int[Tensor, "nnz"], Int[Tensor, "n_plus_1"]]:
    """Return the CSR (indices, offsets) of sorted places ``row * d_sae + feature``."""
    starts = torch.arange(n + 1, device=places.device) * d_sae
    return places % d_sae, torch.searchsorted(places, starts)


def even_offsets(n: int, k: int, device: torch.device) -> Int[Tensor, "n_plus_1"]:
    """Return the CSR offsets of ``k`` pairs a row."""
    return torch.arange(n + 1, device=device) * k


def _at_least(flat: Tensor, bound: float) -> Tensor:
    """Return the places of positive entries not below ``bound``, and those of NaN, so that the loss shows it."""
    below = flat < bound if bound > 0 else flat <= 0
    return true_places(below.logical_not_())


def _lower_bound(flat: Tensor, count: int, width: int) -> float:
    """Return a number that about 1.3 times ``count`` entries reach, from a sample; 0 where that is not worth it.

    A selection over all entries takes 130 ms at 9.4M, one over the candidates that are left 10 ms. The bound only
    saves work: too high a one is noticed and dropped.
    """
    if not flat.numel():
        return 0.0
    # A stride that has no factor in common with the width visits all features.
    stride = max(1, flat.numel() // _SAMPLE) | 1
    while math.gcd(stride, width) != 1:
        stride += 2
    sample = flat[::stride]
    rank = math.ceil(1.3 * count * len(sample) / flat.numel()) + 32
    if rank >= len(sample):
        return 0.0
    bound = float(sample.topk(rank).values[-1])
    return bound if bound > 0 else 0.0
