"""The k largest of each row without sorting the row.

1. ``_candidates`` (a program a row) reads the row once for the maximum of each lane (columns equal modulo the number
   of lanes). The k-th largest of these maxima, found by bisection over the bits of the keys, is a lower bound: k
   numbers of the row reach it, and in a row without structure few more do. Reading the row again (from the cache), it
   writes down all that reach the bound.
2. ``_crowded`` does the rows again that had more of them than fit (many equal numbers, or large ones in few lanes):
   bisection over the whole row for the exact k-th key, then the greater ones and the first of the equal ones. Every
   other row leaves at once.
3. ``_largest`` sorts the few that were written down: greater first, the first column first among equals.

Cost: one reading of z from memory, one from the cache, and 16 k bytes a row. ``torch.topk`` reads a row three to
five times and sorts what it finds with a kernel of its own.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.sae.kernels.triton.jit import kernel
from sae_lightning.sae.kernels.triton.keys import bits_of, load_keys

RowBest = tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]

#: Largest k of the kernels: beyond it the sort of the candidates would cost more than ``torch.topk``.
MOST = 1024


def row_top_k(z: Float[Tensor, "n d_sae"], k: int) -> RowBest:
    """Return (indices, values) of the ``k`` largest, largest first; among equals the first (torch.topk: any)."""
    n, d = z.shape
    k = min(k, d)
    if k > MOST:
        best = z.topk(k, dim=1)
        return best.indices, best.values
    indices, values = torch.empty(n, k, dtype=torch.int64, device=z.device), z.new_empty(n, k)
    if n and k:
        _launch(z if z.stride(1) == 1 else z.contiguous(), k, indices, values)
    return indices, values


def _launch(z: Tensor, k: int, indices: Tensor, values: Tensor) -> None:
    (n, d), stride = z.shape, z.stride(0)
    bits, room = bits_of(z.dtype), triton.next_power_of_2(max(2 * k, 64))
    lanes = max(triton.next_power_of_2(8 * k), 4096 if d >= 16384 else 1024)
    found = torch.empty(n, room, dtype=torch.int64, device=z.device)
    sizes, bounds = (torch.empty(n, dtype=torch.int32, device=z.device) for _ in range(2))
    shape = {"ROOM": room, "LANES": lanes, "BITS": bits, "num_warps": 8 if lanes >= 4096 else 4}
    with torch.cuda.device_of(z):
        _candidates[(n,)](z, stride, found, sizes, bounds, d, k, **shape)
        _crowded[(n,)](z, stride, found, sizes, bounds, d, k, **shape)
        _largest[(n,)](z, stride, found, sizes, indices, values, k, ROOM=room, num_warps=max(1, min(8, room // 256)))


@kernel
@no_type_check
def _write(found, place, kept, key, column, ROOM: tl.constexpr):
    # Key and column in one integer, so that sorting it descends by key and then ascends by column.
    packed = (key.to(tl.int64) << 32) | (0x7FFFFFFF - column).to(tl.int64)
    tl.store(found + place, packed, mask=kept & (place < ROOM))


@kernel
@no_type_check
def _candidates(z, stride, found, sizes, bounds, d, k, ROOM: tl.constexpr, LANES: tl.constexpr, BITS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    z += row * stride
    lanes = tl.arange(0, LANES)
    best = tl.full([LANES], -(1 << (BITS - 1)), tl.int32)
    for first in range(0, d, LANES):
        best = tl.maximum(best, load_keys(z, first + lanes, first + lanes < d, BITS))

    bound = tl.full((), -(1 << (BITS - 1)), tl.int64)
    step = tl.full((), 1 << (BITS - 1), tl.int64)
    for _ in range(BITS):
        trial = bound + step
        enough = tl.sum((best >= trial.to(tl.int32)).to(tl.int32), 0) >= k
        bound = tl.where(enough, trial, bound)
        step = step >> 1
    bound = bound.to(tl.int32)

    size = tl.full((), 0, tl.int32)
    for first in range(0, d, LANES):
        column = first + lanes
        key = load_keys(z, column, column < d, BITS)
        kept = (key >= bound) & (column < d)
        rank = tl.cumsum(kept.to(tl.int32), 0)
        _write(found + row * ROOM, size + rank - 1, kept, key, column, ROOM)
        size += tl.max(rank, 0)
    tl.store(sizes + row, size)
    tl.store(bounds + row, bound)


@kernel
@no_type_check
def _reaching(z, trial, d, LANES: tl.constexpr, BITS: tl.constexpr):
    """Return how many keys of a row are at least ``trial``."""
    lanes = tl.arange(0, LANES)
    counts = tl.zeros([LANES], tl.int32)
    for first in range(0, d, LANES):
        inside = first + lanes < d
        counts += (inside & (load_keys(z, first + lanes, inside, BITS) >= trial)).to(tl.int32)
    return tl.sum(counts, 0)


@kernel
@no_type_check
def _crowded(z, stride, found, sizes, bounds, d, k, ROOM: tl.constexpr, LANES: tl.constexpr, BITS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(sizes + row) > ROOM:
        z += row * stride
        threshold = tl.load(bounds + row).to(tl.int64)
        # The bound itself is often the answer (equal numbers crowd there). Its successor is beyond the top for NaN.
        highest: tl.constexpr = (1 << (BITS - 1)) - 1
        above = tl.full((), 0, tl.int32)
        if threshold < highest:
            above = _reaching(z, (threshold + 1).to(tl.int32), d, LANES, BITS)
        if above >= k:
            threshold = tl.full((), -(1 << (BITS - 1)), tl.int64)
            step = tl.full((), 1 << (BITS - 1), tl.int64)
            for _ in range(BITS):
                trial = threshold + step
                enough = _reaching(z, trial.to(tl.int32), d, LANES, BITS) >= k
                threshold = tl.where(enough, trial, threshold)
                step = step >> 1
            above = tl.full((), 0, tl.int32)
            if threshold < highest:
                above = _reaching(z, (threshold + 1).to(tl.int32), d, LANES, BITS)

        room = k - above
        lanes = tl.arange(0, LANES)
        greater_before = tl.full((), 0, tl.int32)
        equal_before = tl.full((), 0, tl.int32)
        for first in range(0, d, LANES):
            column = first + lanes
            inside = column < d
            key = load_keys(z, column, inside, BITS)
            greater = inside & (key > threshold)
            equal = inside & (key == threshold)
            greater_rank = greater_before + tl.cumsum(greater.to(tl.int32), 0)
            equal_rank = equal_before + tl.cumsum(equal.to(tl.int32), 0)
            place = greater_rank + tl.minimum(equal_rank, room) - 1
            _write(found + row * ROOM, place, greater | (equal & (equal_rank <= room)), key, column, ROOM)
            greater_before = tl.max(greater_rank, 0)
            equal_before = tl.max(equal_rank, 0)
        tl.store(sizes + row, k)


@kernel
@no_type_check
def _largest(z, stride, found, sizes, indices, values, k, ROOM: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, ROOM)
    filled = slot < tl.load(sizes + row)
    packed = tl.load(found + row * ROOM + slot, mask=filled, other=0)
    packed = tl.sort(tl.where(filled, packed, -(1 << 63)), descending=True)
    column = 0x7FFFFFFF - (packed & 0x7FFFFFFF)
    tl.store(indices + row * k + slot, column, mask=slot < k)
    tl.store(values + row * k + slot, tl.load(z + row * stride + column, mask=slot < k), mask=slot < k)
