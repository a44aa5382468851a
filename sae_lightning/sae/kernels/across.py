"""Selections over what several processes hold together: exact, and the same on every one of them.

``Ranks`` hold other rows of one batch (data parallel), or other features of the same rows (sharded); a selection needs
to know only where each of its pairs stands in the whole.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lightning.core import Features, Ranks
from sae_lightning.sae.kernels.select import csr
from sae_lightning.sae.kernels.selectors import BatchTopK, Chosen, RowTopK, more

_DIGIT = 16
_BINS = 1 << _DIGIT


def keep_largest(scores: Float[Tensor, "m"], places: Int[Tensor, "m"], count: int, ranks: Ranks) -> Bool[Tensor, "m"]:
    """Return which of this rank's scores are among the ``count`` largest positive ones of all ranks (a collective).

    places: numbers in the whole batch, different on all ranks; among equal scores those of the lowest are kept. NaN
    counts as largest, so that the loss shows it.

    Exact whatever the sizes: positive floats are ordered as their bits, and histograms of 16 bits at a time, added up
    over ranks, find the score of rank ``count`` (two of them for float32, four for float64).
    """
    bits, n_digits = _ordered_bits(scores)
    positive = ~(scores <= 0)
    left, found, above = bits[positive], 0, count
    for digit in reversed(range(n_digits)):
        shift = digit * _DIGIT
        digits = (left >> shift) & (_BINS - 1)
        histogram = ranks.sum(torch.bincount(digits, minlength=_BINS))
        at_least = histogram.flip(0).cumsum(0).flip(0)
        if int(at_least[0]) <= above:
            # All that are left may stay: everything at least as large as what the digits so far say.
            return positive & (bits >= found << (shift + _DIGIT))
        bin_ = int((at_least >= above).nonzero()[-1])
        above -= int(at_least[bin_] - histogram[bin_])
        left, found = left[digits == bin_], found << _DIGIT | bin_
    equal = positive & (bits == found)
    return (positive & (bits > found)) | _lowest(equal, places, above, ranks)


def _lowest(equal: Bool[Tensor, "m"], places: Int[Tensor, "m"], room: int, ranks: Ranks) -> Bool[Tensor, "m"]:
    """Return which of the pairs marked ``equal`` have the ``room`` lowest places of all ranks."""
    own = places[equal]
    counts = ranks.stack(own.new_tensor([len(own)])).flatten()
    padded = own.new_full((int(counts.max()),), torch.iinfo(torch.int64).max)
    padded[: len(own)] = own
    every = ranks.stack(padded).flatten().sort().values
    return equal & (places <= every[room - 1])


def _ordered_bits(scores: Tensor) -> tuple[Int[Tensor, "m"], int]:
    """Return integers in the order of the positive ``scores`` (NaN above all), and how many digits they have."""
    if scores.dtype == torch.float64:
        return scores.view(torch.int64) & torch.iinfo(torch.int64).max, 4
    return scores.float().view(torch.int32).to(torch.int64) & torch.iinfo(torch.int32).max, 2


class GlobalBatchTopK(BatchTopK):
    """The ``count`` largest positive ones of all ranks together; ``chosen`` gives this rank's share of them.

    first_row, first, d_whole: where this rank's rows, and its features of all ``d_whole``, begin in the whole batch.
    Among equals the first of the whole batch are kept. Each rank offers its own ``count`` largest, for it may hold all
    that are kept. Asking for ``chosen`` is a collective.
    """

    def __init__(
        self, count: int, d_sae: int, ranks: Ranks, *, first_row: int = 0, first: int = 0, d_whole: int | None = None
    ) -> None:
        super().__init__(count, d_sae)
        self._ranks, self._first_row, self._first = ranks, first_row, first
        self._whole = d_sae if d_whole is None else d_whole

    def wider(self) -> "GlobalBatchTopK":
        place = {"first_row": self._first_row, "first": self._first, "d_whole": self._whole}
        return GlobalBatchTopK(more(self.count, 1 / 8), self.d_sae, self._ranks, **place)

    def chosen(self) -> Chosen:
        assert self._places is not None
        assert self._scores is not None
        rows, features = self._places // self.d_sae + self._first_row, self._places % self.d_sae + self._first
        kept = keep_largest(self._scores, rows * self._whole + features, self.count, self._ranks)
        self._places, self._scores = self._places[kept], self._scores[kept]
        return super().chosen()


class GlobalRowTopK(RowTopK):
    """The ``k`` largest of each row over the features of all ranks; ``chosen`` gives those that this rank holds.

    Each rank offers its own k largest; among equals those of the lowest rank, which has the lowest features, are kept.
    """

    def __init__(self, k: int, ranks: Ranks, signed: bool = False) -> None:
        super().__init__(k, signed)
        self._ranks = ranks

    def wider(self) -> "GlobalRowTopK":
        return GlobalRowTopK(more(self.k, 1 / 4), self._ranks, self.signed)

    def among(self, candidates: Chosen) -> Chosen:
        # Candidates of a row lie side by side, and rows with fewer of them are filled up.
        counts = candidates.offsets.diff()
        rows = torch.repeat_interleave(
            torch.arange(len(counts), device=counts.device), counts, output_size=len(candidates.indices)
        )
        beside = torch.arange(len(rows), device=rows.device) - candidates.offsets[rows]
        by = candidates.scores.new_full((len(counts), int(counts.max()) if len(counts) else 0), -torch.inf)
        by[rows, beside] = candidates.scores.abs() if self.signed else candidates.scores
        kept = row_winners(by, self.k, self._ranks)[rows, beside]
        ends = torch.cat([counts.new_zeros(1), kept.cumsum(0)])[candidates.offsets]
        return Chosen(candidates.indices[kept], ends, candidates.scores[kept])

    def chosen(self) -> Chosen:
        assert self._indices is not None
        assert self._scores is not None
        kept = row_winners(self._scores.abs() if self.signed else self._scores, self.k, self._ranks)
        counts = kept.sum(1)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Chosen(self._indices[kept], offsets, self._scores[kept])


def row_winners(scores: Float[Tensor, "n m"], k: int, ranks: Ranks) -> Bool[Tensor, "n m"]:
    """Return which of this rank's scores are among the ``k`` largest of their row over all ranks (a collective).

    Ranks may have different numbers of scores; together they have at least k a row, or all are kept.
    """
    widths = ranks.stack(torch.tensor([scores.shape[1]], device=scores.device)).flatten()
    width = int(widths.max())
    padded = scores.new_full((len(scores), width), -torch.inf)
    padded[:, : scores.shape[1]] = scores
    every = ranks.stack(padded).transpose(0, 1).flatten(1)
    order = every.sort(dim=1, descending=True, stable=True).indices[:, :k]
    kept = torch.zeros(every.shape, dtype=torch.bool, device=scores.device).scatter_(1, order, True)
    return kept.view(len(scores), ranks.world, width)[:, ranks.rank, : scores.shape[1]]


@torch.no_grad()
def all_parts(features: Features, ranks: Ranks, first: int, d_whole: int) -> Features:
    """Return the features of all ``d_whole`` that the ranks hold, of which this one has those from ``first`` on."""
    mean, std = features.input_mean, features.input_std
    if features.indices is None:
        return Features(torch.cat(list(ranks.stack(features.values)), 1), None, None, d_whole, mean, std)
    places = features.rows * d_whole + features.indices + first
    counts = ranks.stack(places.new_tensor([len(places)])).flatten()
    padded, values = (v.new_zeros(int(counts.max())) for v in (places, features.values))
    padded[: len(places)], values[: len(places)] = places, features.values
    held = torch.arange(len(padded), device=padded.device) < counts[:, None]
    places, order = ranks.stack(padded)[held].sort()
    indices, offsets = csr(places, features.n_rows, d_whole)
    return Features(ranks.stack(values)[held][order], indices, offsets, d_whole, mean, std)


def own_part(features: Features, first: int, width: int) -> Features:
    """Return the features ``first`` to ``first + width - 1``, numbered from 0."""
    mean, std = features.input_mean, features.input_std
    if features.indices is None or features.offsets is None:
        return Features(features.values[:, first : first + width], None, None, width, mean, std)
    own = (features.indices >= first) & (features.indices < first + width)
    offsets = torch.cat([features.offsets.new_zeros(1), own.cumsum(0)])[features.offsets]
    return Features(features.values[own], features.indices[own] - first, offsets, width, mean, std)
