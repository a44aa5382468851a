"""The values that travel between rooms: frozen, with their shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Windows of tokens as the language model reads them.

    tokens:      ids in the LM's vocabulary.
    mask:        True where there is a real token (False: padding). Says nothing about outliers: see activations.mask.
    token_index: number of each token in its corpus (0-based over the whole corpus), -1 for padding and for
                 separators or BOS that the window inserted. Together with the corpus it gives text and position.
    text_index:  number of the text that the window's first real token comes from.
    start:       position of that token inside its text, in tokens.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    token_index: Int[Tensor, "batch pos"]
    text_index: Int[Tensor, "batch"]
    start: Int[Tensor, "batch"]


@dataclass(frozen=True)
class ActivationBatch:
    """Rows an SAE trains on: x is read, y is what it must write (y is x for an SAE).

    token_index: number of the token in its corpus (or of the row in its file), int64.
    """

    x: Float[Tensor, "n d_in"]
    y: Float[Tensor, "n d_out"]
    token_index: Int[Tensor, "n"]

    def __len__(self) -> int:
        return self.x.shape[0]


@dataclass(frozen=True)
class WindowBatch(ActivationBatch):
    """Rows of whole windows, for losses that are measured through the language model: x and y are the rows that count.

    windows: the tokens. keep: True where a row is; x and y follow it window by window.
    written: activations at the sites that are written, every position in place, in the language model's dtype.
    below:   the residual stream from which a run with something else written has to begin; None: from the tokens.
    """

    windows: TokenBatch
    keep: Bool[Tensor, "b p"]
    written: Float[Tensor, "b p d_out"]
    below: Float[Tensor, "b p d_model"] | None


@dataclass(frozen=True)
class Sites:
    """Hook names that are read and written. Equal: an SAE; different: a transcoder; several: a crosscoder."""

    read: tuple[str, ...]
    write: tuple[str, ...]


@dataclass(frozen=True)
class Features:
    """Feature activations of ``n`` rows, sparse (CSR) or dense.

    Sparse: row ``r`` has the features ``indices[offsets[r]:offsets[r+1]]`` with ``values`` beside them. ``offsets``
    has n + 1 entries. Any number per row, so top-k, batch top-k and thresholds share one form; a stored value may be
    0 (a selected pre-activation that ReLU cut), and then the feature did not fire.
    Dense: ``indices`` and ``offsets`` are None and ``values`` is [n, d_sae].

    input_mean, input_std: per-row statistics that a decoder needs when the SAE layer-normalises its raw input; None
    otherwise.
    """

    values: Float[Tensor, "nnz"] | Float[Tensor, "n d_sae"]
    indices: Int[Tensor, "nnz"] | None
    offsets: Int[Tensor, "n_plus_1"] | None
    d_sae: int
    input_mean: Float[Tensor, "n 1"] | None = None
    input_std: Float[Tensor, "n 1"] | None = None

    @property
    def is_sparse(self) -> bool:
        return self.indices is not None

    @property
    def n_rows(self) -> int:
        return self.values.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @cached_property
    def rows(self) -> Int[Tensor, "nnz"]:
        """The row of each stored pair (sparse form only)."""
        assert self.offsets is not None
        counts = self.offsets.diff()
        number = torch.arange(self.n_rows, device=counts.device)
        return torch.repeat_interleave(number, counts, output_size=self.values.shape[0])

    def dense(self) -> Float[Tensor, "n d_sae"]:
        """Return [n, d_sae], differentiable in ``values``."""
        if self.indices is None:
            return self.values
        out = self.values.new_zeros(self.n_rows, self.d_sae)
        return out.index_put((self.rows, self.indices), self.values)

    def fired(self) -> Bool[Tensor, "d_sae"]:
        """Return which features are active (not 0) on any row."""
        if self.indices is None:
            return (self.values != 0).any(0)
        return self.counts() > 0

    def counts(self) -> Int[Tensor, "d_sae"]:
        """Return on how many rows each feature is active."""
        if self.indices is None:
            return (self.values != 0).sum(0)
        active = (self.values != 0).to(torch.int64)
        # Integer sums: the same on every device and in any order, and no host sync.
        return torch.zeros(self.d_sae, dtype=torch.int64, device=active.device).index_add_(0, self.indices, active)

    def l0(self) -> Int[Tensor, "n"]:
        """Return the number of active features of each row."""
        if self.indices is None:
            return (self.values != 0).sum(-1)
        active = (self.values != 0).to(torch.int64)
        return torch.zeros(self.n_rows, dtype=torch.int64, device=active.device).index_add_(0, self.rows, active)

    def l1(self) -> Float[Tensor, "n"]:
        """Return the sum of absolute activations of each row."""
        if self.indices is None:
            return self.values.abs().sum(-1)
        return self.values.new_zeros(self.n_rows).index_add(0, self.rows, self.values.abs())

    def slice(self, first: int, last: int) -> "Features":
        """Return rows ``first`` to ``last - 1``."""
        mean, std = (None if v is None else v[first:last] for v in (self.input_mean, self.input_std))
        if self.indices is None or self.offsets is None:
            return Features(self.values[first:last], None, None, self.d_sae, mean, std)
        offsets = self.offsets[first : last + 1]
        begin, end = int(offsets[0]), int(offsets[-1])
        return Features(self.values[begin:end], self.indices[begin:end], offsets - begin, self.d_sae, mean, std)

    def sparse(self) -> "Features":
        """Return the same features with their active pairs alone."""
        rows, indices, values = self.triples()
        counts = torch.bincount(rows, minlength=self.n_rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Features(values, indices, offsets, self.d_sae, self.input_mean, self.input_std)

    @staticmethod
    def join(parts: Sequence["Features"]) -> "Features":
        """Return the rows of sparse parts, one after the other."""
        indices, offsets, before = [], [], 0
        for part in parts:
            assert part.indices is not None
            assert part.offsets is not None
            indices.append(part.indices)
            offsets.append(part.offsets[bool(offsets) :] + before)
            before += len(part.indices)
        first = parts[0]
        mean = (
            None if first.input_mean is None else torch.cat([p.input_mean for p in parts if p.input_mean is not None])
        )
        std = None if first.input_std is None else torch.cat([p.input_std for p in parts if p.input_std is not None])
        values = torch.cat([part.values for part in parts])
        return Features(values, torch.cat(indices), torch.cat(offsets), first.d_sae, mean, std)

    def triples(self) -> tuple[Int[Tensor, "nnz"], Int[Tensor, "nnz"], Float[Tensor, "nnz"]]:
        """Return (row, feature, value) of every active pair, ordered by row."""
        if self.indices is None:
            rows, features = self.values.nonzero(as_tuple=True)
            return rows, features, self.values[rows, features]
        active = self.values != 0
        return self.rows[active], self.indices[active], self.values[active]


@dataclass(frozen=True)
class SAEOutput:
    """What one forward pass gives: reconstruction, features, and the pre-activations they were chosen from.

    pre_acts carries gradients only where the architecture is dense; a sparse architecture's gradient travels through
    ``features.values`` alone, so that nothing of size n x d_sae is kept for the backward pass. It is None where
    pre-activations went by in blocks and were never whole, and rounded (bfloat16) where a narrow product selected.
    selected: of sparse features, the pre-activation of each stored pair, differentiable.
    """

    y_hat: Float[Tensor, "n d_out"]
    features: Features
    pre_acts: Float[Tensor, "n d_sae"] | None
    selected: Float[Tensor, "nnz"] | None = None
