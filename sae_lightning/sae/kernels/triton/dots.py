"""The dot product of each pair: ``left[row] . right[index]``.

A program has a fixed number of pairs, whatever rows they belong to, so a row with thousands of pairs costs no more
time than as many rows with one. Pairs of one row stand side by side: their row of ``left`` comes from the cache.
float32 products are added elementwise over the blocks of columns, then over the columns of a block.

Cost: a row of ``right`` for each pair, a row of ``left`` for each row; nothing of size nnz x d is kept.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae_lightning.sae.kernels.pattern import SparsePattern
from sae_lightning.sae.kernels.triton.jit import kernel

_PAIRS = 16
_WIDTH = 128


def dot_rows(
    left: Float[Tensor, "n d"], right: Float[Tensor, "d_sae d"], pattern: SparsePattern
) -> Float[Tensor, "nnz"]:
    """Return ``left[row] . right[index]`` of each pair, in the dtype of ``left``; ``right`` may have another."""
    nnz, d = pattern.indices.shape[0], left.shape[1]
    out = torch.empty(nnz, dtype=left.dtype, device=left.device)
    if nnz:
        left, right = (m if m.stride(1) == 1 else m.contiguous() for m in (left, right))
        with torch.cuda.device_of(left):
            _dots[(triton.cdiv(nnz, _PAIRS),)](
                left, left.stride(0), right, right.stride(0), pattern.rows, pattern.indices, out, nnz, d,
                PAIRS=_PAIRS, WIDTH=_WIDTH, num_warps=4,
            )  # fmt: skip
    return out


@kernel
@no_type_check
def _dots(left, left_stride, right, right_stride, rows, indices, out, nnz, d, PAIRS: tl.constexpr, WIDTH: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    inside = pair < nnz
    row = tl.load(rows + pair, mask=inside, other=0)
    index = tl.load(indices + pair, mask=inside, other=0)
    total = tl.zeros([PAIRS, WIDTH], tl.float32)
    for first in range(0, d, WIDTH):
        column = first + tl.arange(0, WIDTH)
        exists = inside[:, None] & (column < d)[None, :]
        a = tl.load(left + row[:, None] * left_stride + column[None, :], mask=exists, other=0.0)
        b = tl.load(right + index[:, None] * right_stride + column[None, :], mask=exists, other=0.0)
        total += a.to(tl.float32) * b.to(tl.float32)
    tl.store(out + pair, tl.sum(total, 1), mask=inside)
