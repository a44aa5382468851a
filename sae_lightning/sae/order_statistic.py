"""An exact order statistic over more numbers than fit in memory."""

from collections.abc import Callable, Iterable
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import ALONE, Ranks, UserError

_HIGH = 1 << 15  # the sign bit of a positive float32 is 0: 15 bits above, 16 below
_LOW = 1 << 16


def threshold_for(
    batches: Callable[[], Iterable[Iterable[Float[Tensor, "n width"]]]], per_row: float, ranks: Ranks = ALONE
) -> float:
    """Return a threshold that leaves ``round(per_row * rows)`` positive numbers above it.

    It lies halfway between the last kept and the first dropped number, so that rounding moves neither across. With
    fewer positive numbers than asked for it is 0; with the two equal, their value. Two passes: positive float32
    numbers are ordered as their bits, so a histogram of the upper 15 bits finds the two bins and one of the lower 16
    bits inside them finds the numbers. Memory: one block and 800 kB.

    batches: gives the blocks [rows, features] of each batch of rows. ranks: each has other features of the same rows.
    """
    coarse = torch.zeros(_HIGH, dtype=torch.int64)
    n_rows = 0
    for blocks in batches():
        rows = 0
        for z in blocks:
            rows = z.shape[0]
            coarse += torch.bincount(_bits(z, 0) >> 16, minlength=_HIGH).cpu()
        n_rows += rows
    if n_rows == 0:
        raise UserError("threshold calibration: no rows were given; it needs at least one held-out activation")
    coarse = ranks.sum(coarse)
    count = max(1, round(per_row * n_rows))
    total = int(coarse.sum())
    if count > total:
        return 0.0
    wanted = [count, count + 1] if count < total else [count]
    # Number of entries in the bins above each bin.
    greater = coarse.flip(0).cumsum(0).flip(0) - coarse
    bins = {rank: int(((greater < rank) & (greater + coarse >= rank)).nonzero()[0]) for rank in wanted}
    fine = {b: torch.zeros(_LOW, dtype=torch.int64) for b in bins.values()}
    for z in chain.from_iterable(batches()):
        bits = _bits(z, min(fine) << 16)
        for b, histogram in fine.items():
            histogram += torch.bincount(bits[bits >> 16 == b] & (_LOW - 1), minlength=_LOW).cpu()
    found = []
    fine = {b: ranks.sum(histogram) for b, histogram in fine.items()}
    for rank, b in bins.items():
        at_least = fine[b].flip(0).cumsum(0).flip(0)
        low = int((at_least >= rank - int(greater[b])).nonzero()[-1])
        found.append(_number((b << 16) | low))
    return sum(found) / 2 if len(found) == 2 else found[0] / 2


def _bits(z: Float[Tensor, "n d_sae"], least: int) -> Int[Tensor, "count"]:
    """Return the bits of all positive numbers whose bits are at least ``least``."""
    z = z.float()
    return z[(z > 0) & (z >= _number(least))].view(torch.int32)


def _number(bits: int) -> float:
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()
