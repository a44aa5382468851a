"""Which features are active on which rows (CSR), and the same by feature (its transpose)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from sae_lightning.sae.kernels import triton
from sae_lightning.sae.kernels.backend import use_triton


@dataclass(frozen=True)
class Transpose:
    """The pairs ordered by feature: ``order`` sorts them, feature ``f`` owns ``offsets[f]:offsets[f + 1]``."""

    order: Int[Tensor, "nnz"]
    rows: Int[Tensor, "nnz"]
    offsets: Int[Tensor, "d_sae_plus_1"]


class SparsePattern:
    """Positions of the active pairs: row ``r`` has the features ``indices[offsets[r]:offsets[r + 1]]``.

    The transpose costs one stable sort of the pairs, is made at the first backward pass and shared by all of them.
    """

    def __init__(self, indices: Int[Tensor, "nnz"], offsets: Int[Tensor, "n_plus_1"], d_sae: int) -> None:
        self.indices, self.offsets, self.d_sae = indices, offsets, d_sae

    @property
    def n_rows(self) -> int:
        return self.offsets.shape[0] - 1

    @cached_property
    def rows(self) -> Int[Tensor, "nnz"]:
        """The row of each pair."""
        return _rows(self.offsets, self.indices.shape[0])

    @property
    def transpose(self) -> Transpose:
        """The pairs by feature; kept as long as ``indices`` lives."""
        found = _TRANSPOSES.get(self.indices)
        if found is None or found[0] != (self.d_sae, self.indices._version):
            ordered, order = self.indices.sort(stable=True)
            boundaries = torch.arange(self.d_sae + 1, device=ordered.device)
            transpose = Transpose(order, self.rows[order], torch.searchsorted(ordered, boundaries))
            _TRANSPOSES[self.indices] = found = ((self.d_sae, self.indices._version), transpose)
        return found[1]

    def sum_by_feature(self, values: Float[Tensor, "nnz"]) -> Float[Tensor, "d_sae"]:
        """Return each feature's sum of ``values``. Not index_add: its order on a GPU changes from run to run."""
        if use_triton(values):
            return triton.sum_by_feature(values, self)
        t = self.transpose
        return functional.embedding_bag(t.order, values[:, None], t.offsets, mode="sum", include_last_offset=True)[:, 0]


# The transpose holds no reference to its key, so an entry dies with the tensor of indices it belongs to.
_TRANSPOSES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def pattern_of(indices: Int[Tensor, "nnz"], offsets: Int[Tensor, "n_plus_1"], d_sae: int) -> SparsePattern:
    """Return the pattern of a CSR pair; patterns over the same ``indices`` tensor share one transpose.

    A tensor of indices must therefore always be used with the same offsets, which a CSR pair is by nature.
    """
    assert indices.ndim == offsets.ndim == 1, "CSR pairs are flat"
    assert indices.dtype == offsets.dtype == torch.int64
    return SparsePattern(indices, offsets, d_sae)


def _rows(offsets: Int[Tensor, "n_plus_1"], nnz: int) -> Int[Tensor, "nnz"]:
    number = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return torch.repeat_interleave(number, offsets.diff(), output_size=nnz)
