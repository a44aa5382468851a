"""Which pre-activations are kept: per row, over the batch, per group, or above a threshold. Results are CSR pairs.

All are exact and deterministic. A row's top-k depends on that row alone.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pairs = tuple[Int[Tensor, "nnz"], Int[Tensor, "n_plus_1"]]
_SAMPLE = 1 << 16


def row_top_k(z: Float[Tensor, "n d_sae"], k: int) -> Pairs:
    """Return the ``k`` largest of each row, largest first."""
    indices = z.topk(min(k, z.shape[1]), dim=1).indices
    return indices.reshape(-1), _even_offsets(z.shape[0], indices.shape[1], z.device)


def group_max(z: Float[Tensor, "n d_sae"], k: int) -> Pairs:
    """Return the largest of each of ``k`` equal, contiguous groups of features, in order of the groups."""
    n, d_sae = z.shape
    size = d_sae // k
    best = z.reshape(n, k, size).argmax(-1)
    indices = best + torch.arange(k, device=z.device) * size
    return indices.reshape(-1), _even_offsets(n, k, z.device)


def batch_top_k(z: Float[Tensor, "n d_sae"], count: int) -> Pairs:
    """Return the ``count`` largest of the whole batch, however they fall on the rows; among equals, the first.

    Only positive ones are kept on the CPU; on other devices, where a number of pairs that depends on the data would
    wait for the device, places of non-positive ones may fill up to ``count`` and are for ReLU to cut.
    """
    n, d_sae = z.shape
    flat, count = z.reshape(-1), min(count, z.numel())
    if z.device.type == "cpu":
        places = _largest_positive(flat, count, d_sae)
    else:
        places = flat.topk(count, sorted=False).indices.sort().values
    return _pairs(places, n, d_sae)


def above(z: Float[Tensor, "n d_sae"], threshold: Float[Tensor, ""]) -> Pairs:
    """Return all pre-activations above a float64 threshold, compared exactly in the precision of ``z``."""
    n, d_sae = z.shape
    return _pairs((z > floor_to(threshold, z.dtype)).reshape(-1).nonzero()[:, 0], n, d_sae)


def floor_to(threshold: Float[Tensor, ""], dtype: torch.dtype) -> Float[Tensor, ""]:
    """Return the largest ``dtype`` number not above ``threshold``: ``z > t`` and ``z > floor_to(t)`` agree."""
    near = threshold.to(dtype)
    below = torch.nextafter(near, torch.full_like(near, -math.inf))
    return torch.where(near.to(torch.float64) > threshold, below, near)


def _largest_positive(flat: Tensor, count: int, d_sae: int) -> Tensor:
    """Return the sorted places of the ``count`` largest positive entries (of all of them, if there are fewer).

    A selection over all entries takes 130 ms at 9.4M; a lower bound estimated from a sample first leaves about
    1.3 times ``count`` candidates (10 ms). The bound only saves work: too high a one is noticed and dropped.
    """
    bound = _lower_bound(flat, count, d_sae)
    candidates = _not_below(flat, bound)
    if len(candidates) < count and bound > 0:
        candidates = _not_below(flat, 0.0)
    if len(candidates) <= count:
        return candidates
    values = flat[candidates]
    last = values.topk(count, sorted=False).values.min()
    greater, equal = ~(values <= last), values == last
    room = count - greater.sum()
    return candidates[greater | (equal & (equal.cumsum(0) <= room))]


def _not_below(flat: Tensor, bound: float) -> Tensor:
    # Not `flat > bound`: NaN must be selected too, so that the loss shows it.
    return (flat <= bound).logical_not_().nonzero()[:, 0]


def _lower_bound(flat: Tensor, count: int, d_sae: int) -> float:
    # A stride that has no factor in common with d_sae visits all features.
    stride = max(1, flat.numel() // _SAMPLE) | 1
    while math.gcd(stride, d_sae) != 1:
        stride += 2
    sample = flat[::stride]
    rank = math.ceil(1.3 * count * len(sample) / flat.numel()) + 32
    if rank >= len(sample):
        return 0.0
    bound = float(sample.topk(rank).values[-1])
    return bound if bound > 0 else 0.0


def _pairs(places: Int[Tensor, "nnz"], n: int, d_sae: int) -> Pairs:
    starts = torch.arange(n + 1, device=places.device) * d_sae
    return places % d_sae, torch.searchsorted(places, starts)


def _even_offsets(n: int, k: int, device: torch.device) -> Tensor:
    return torch.arange(n + 1, device=device) * k
