"""Selections that are fed pre-activations block by block: what is kept is the same however features are cut up.

But for equal scores in a row: of those ``RowTopK`` keeps the ones that ``torch.topk`` does.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lightning.sae.kernels.select import (
    csr,
    even_offsets,
    floor_to,
    group_max,
    largest_places,
    row_top_k,
    row_top_k_signed,
    true_places,
)


class Chosen(NamedTuple):
    """CSR pairs that were kept, and the pre-activation of each as the selection saw it."""

    indices: Int[Tensor, "nnz"]
    offsets: Int[Tensor, "n_plus_1"]
    scores: Float[Tensor, "nnz"]


class Selector(ABC):
    """One selection over ``n`` rows: ``add`` blocks of features from left to right, then ask for ``chosen``.

    multiple: blocks must begin at a multiple of this many features.
    """

    multiple = 1

    @abstractmethod
    def add(self, z: Float[Tensor, "n width"], first: int) -> None:
        """Look at the features ``first`` to ``first + width - 1``; z may be overwritten afterwards."""

    @abstractmethod
    def chosen(self) -> Chosen:
        """Return what has been kept."""

    def wider(self) -> "Selector":
        """Return a fresh selection that keeps some more, for scores that have been rounded."""
        return self

    def among(self, candidates: Chosen) -> Chosen:
        """Return what this selection keeps of candidates that a wider one has found, now with exact scores."""
        return candidates


def more(k: int, share: float) -> int:
    """Return how many candidates are taken where k will be kept: bfloat16 rounds scores to one part in 256."""
    return k + max(4, int(k * share))


class RowTopK(Selector):
    """The ``k`` largest of each row (``signed``: largest in absolute value), largest first."""

    def __init__(self, k: int, signed: bool = False) -> None:
        self.k, self.signed = k, signed
        self._indices: Tensor | None = None
        self._scores: Tensor | None = None

    def add(self, z: Float[Tensor, "n width"], first: int) -> None:
        indices, scores = (row_top_k_signed if self.signed else row_top_k)(z, self.k)
        indices = indices + first if first else indices
        if self._indices is not None and self._scores is not None:
            indices, scores = torch.cat([self._indices, indices], 1), torch.cat([self._scores, scores], 1)
            indices, scores = self._best(indices, scores)
        self._indices, self._scores = indices, scores

    def chosen(self) -> Chosen:
        assert self._indices is not None
        assert self._scores is not None
        n, k = self._indices.shape
        return Chosen(self._indices.reshape(-1), even_offsets(n, k, self._indices.device), self._scores.reshape(-1))

    def wider(self) -> "RowTopK":
        return RowTopK(more(self.k, 1 / 4), self.signed)

    def among(self, candidates: Chosen) -> Chosen:
        n = len(candidates.offsets) - 1
        self._indices, self._scores = self._best(candidates.indices.view(n, -1), candidates.scores.view(n, -1))
        return self.chosen()

    def _best(self, indices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        by = scores.abs() if self.signed else scores
        best = by.topk(min(self.k, by.shape[1]), dim=1).indices
        return indices.gather(1, best), scores.gather(1, best)


class GroupMax(Selector):
    """The ``keep`` largest (one) of each contiguous group of ``size`` features, in order of the groups."""

    def __init__(self, size: int, keep: int = 1) -> None:
        self.multiple, self._keep = size, min(keep, size)
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, z: Float[Tensor, "n width"], first: int) -> None:
        indices, scores = group_max(z, self.multiple, self._keep)
        self._parts.append((indices + first, scores))

    def wider(self) -> "GroupMax":
        return GroupMax(self.multiple, 3)

    def among(self, candidates: Chosen) -> Chosen:
        n = len(candidates.offsets) - 1
        keep = self.wider()._keep
        indices, scores = (value.view(n, -1, keep) for value in (candidates.indices, candidates.scores))
        best = scores.argmax(-1, keepdim=True)
        self._parts = [(indices.gather(2, best)[..., 0], scores.gather(2, best)[..., 0])]
        return self.chosen()

    def chosen(self) -> Chosen:
        indices, scores = (torch.cat(parts, 1) for parts in zip(*self._parts, strict=True))
        n, k = indices.shape
        return Chosen(indices.reshape(-1), even_offsets(n, k, indices.device), scores.reshape(-1))


class BatchTopK(Selector):
    """The ``count`` largest of all rows together; among equals the first. On the CPU only positive ones.

    Elsewhere, where a number of pairs that depends on the data would wait for the device, places of non-positive ones
    may fill up to ``count`` and are for ReLU to cut.
    """

    def __init__(self, count: int, d_sae: int) -> None:
        self.count, self.d_sae = count, d_sae
        self._n = 0
        self._places: Tensor | None = None
        self._scores: Tensor | None = None

    def add(self, z: Float[Tensor, "n width"], first: int) -> None:
        self._n, width = z.shape
        flat = z.reshape(-1)
        found = largest_places(flat, min(self.count, z.numel()), width, self._bound())
        scores = flat[found]
        places = found if width == self.d_sae else found // width * self.d_sae + found % width + first
        if self._places is not None and self._scores is not None:
            places, scores = torch.cat([self._places, places]), torch.cat([self._scores, scores])
        self._keep(places, scores)

    def chosen(self) -> Chosen:
        assert self._places is not None
        assert self._scores is not None
        return Chosen(*csr(self._places, self._n, self.d_sae), self._scores)

    def wider(self) -> "BatchTopK":
        return BatchTopK(more(self.count, 1 / 8), self.d_sae)

    def among(self, candidates: Chosen) -> Chosen:
        self._n = len(candidates.offsets) - 1
        rows = torch.repeat_interleave(
            torch.arange(self._n, device=candidates.offsets.device),
            candidates.offsets.diff(),
            output_size=len(candidates.indices),
        )
        self._keep(rows * self.d_sae + candidates.indices, candidates.scores)
        return self.chosen()

    def _keep(self, places: Tensor, scores: Tensor) -> None:
        """Keep the largest of what has been found, in the order of their places."""
        places, order = places.sort()
        scores = scores[order]
        best = largest_places(scores, min(self.count, len(scores)), at_least=0.0)
        self._places, self._scores = places[best], scores[best]

    def _bound(self) -> float | None:
        """Return what a later block's entries must reach to be kept; None: unknown."""
        scores = self._scores
        if scores is None or scores.device.type != "cpu" or len(scores) < self.count:
            return None
        return float(scores.min())


class _Exceeding(Selector):
    """Everything that exceeds something; ``_mask`` says what does."""

    def __init__(self, d_sae: int) -> None:
        self.d_sae = d_sae
        self._n = 0
        self._parts: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def _mask(self, z: Float[Tensor, "n width"], first: int) -> Bool[Tensor, "n width"]: ...

    def add(self, z: Float[Tensor, "n width"], first: int) -> None:
        self._n, width = z.shape
        found = true_places(self._mask(z, first))
        places = found if width == self.d_sae else found // width * self.d_sae + found % width + first
        self._parts.append((places, z.reshape(-1)[found]))

    def chosen(self) -> Chosen:
        places, scores = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        if len(self._parts) > 1:
            places, order = places.sort()
            scores = scores[order]
        return Chosen(*csr(places, self._n, self.d_sae), scores)


class Above(_Exceeding):
    """Everything above one float64 threshold, compared exactly in the precision of the pre-activations."""

    def __init__(self, threshold: Float[Tensor, ""], d_sae: int) -> None:
        super().__init__(d_sae)
        self.threshold = threshold

    def _mask(self, z: Float[Tensor, "n width"], first: int) -> Bool[Tensor, "n width"]:
        return z > floor_to(self.threshold, z.dtype)


class AboveEach(_Exceeding):
    """Everything above its feature's own bar. slack [d_sae]: how far rounding may have moved a score."""

    def __init__(self, bars: Float[Tensor, "d_sae"], slack: Float[Tensor, "d_sae"], d_sae: int) -> None:
        super().__init__(d_sae)
        self.bars, self.slack = bars, slack

    def _mask(self, z: Float[Tensor, "n width"], first: int) -> Bool[Tensor, "n width"]:
        # Not `z > bar`: NaN must be selected too, so that the loss shows it.
        return (z <= self.bars[first : first + z.shape[1]].to(z.dtype)).logical_not_()

    def wider(self) -> "AboveEach":
        return AboveEach(self.bars - self.slack, self.slack, self.d_sae)

    def among(self, candidates: Chosen) -> Chosen:
        kept = ~(candidates.scores <= self.bars[candidates.indices])
        before = torch.cat([candidates.offsets.new_zeros(1), kept.cumsum(0)])
        return Chosen(candidates.indices[kept], before[candidates.offsets], candidates.scores[kept])
