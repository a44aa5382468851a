"""Weighted sums of rows of a matrix by bag: the sparse decode (bags are rows) and its gradient (bags are features).

``_bags`` gives a program to each bag and block of columns; it adds a few rows at a time in float32, in the order of
the pairs. A bag with 10^4 pairs would keep one program busy long after the others are done, so with a ``split`` the
list of pairs is also cut at its multiples: a bag's own program stops at the first cut behind its start, ``_parts``
adds what lies between one cut and the next of a bag that goes on there, and ``_join`` adds the parts in order. Where
the cuts fall depends on the pattern alone: the same bits every run. Most programs of ``_parts`` find that no bag
crosses their cut from before and leave.

Cost: each pair's row is read once (mostly from the cache), each bag's row written once; split, nnz / 256 rows of
float32 more are kept for a moment.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.sae.kernels.pattern import SparsePattern, Transpose
from sae_lightning.sae.kernels.triton.jit import kernel

_SPLIT = 256
#: Numbers that a program holds at a time: rows added together times columns.
_TILE = 2048


def sum_rows(
    matrix: Float[Tensor, "m d"],
    indices: Int[Tensor, "nnz"],
    offsets: Int[Tensor, "bags_plus_1"],
    weights: Float[Tensor, "nnz"],
) -> Float[Tensor, "bags d"]:
    """Return, per bag of ``offsets``, the weighted sum of the rows of ``matrix`` named by ``indices``.

    Bags are not split: one of thousands of pairs (a row may have them in batch top-k) takes its time.
    """
    return _sum(matrix, indices, offsets, weights)


def by_feature(
    rows: Float[Tensor, "n d"], values: Float[Tensor, "nnz"], pattern: SparsePattern
) -> Float[Tensor, "d_sae d"]:
    """Return, per feature, the sum of ``value * row`` over its pairs. Features with many pairs are split."""
    t = pattern.transpose
    return _sum(rows, t.rows, t.offsets, values[t.order], (pattern, t))


def sum_by_feature(values: Float[Tensor, "nnz"], pattern: SparsePattern) -> Float[Tensor, "d_sae"]:
    """Return, per feature, the sum of its values. Features with many pairs are split."""
    t = pattern.transpose
    return _sum(values[:, None], t.order, t.offsets, None, (pattern, t))[:, 0]


def _sum(
    matrix: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    split: tuple[SparsePattern, Transpose] | None = None,
) -> Tensor:
    bags, d, nnz = offsets.shape[0] - 1, matrix.shape[1], indices.shape[0]
    out = torch.empty(bags, d, dtype=torch.float32, device=matrix.device)
    if not (bags and d):
        return out.to(matrix.dtype)
    matrix = matrix if matrix.stride(1) == 1 else matrix.contiguous()
    width = _width(d)
    shape = {
        "STEP": max(1, min(_TILE // width, 8 if width > 1 else _SPLIT)),
        "WIDTH": width,
        "SPLIT": 0 if split is None else _SPLIT,
        "WEIGHTED": weights is not None,
        "num_warps": 4 if width > 1 else 1,
    }
    columns = triton.cdiv(d, width)
    values = matrix if weights is None else weights
    with torch.cuda.device_of(matrix):
        _bags[(bags, columns)](matrix, matrix.stride(0), indices, values, offsets, out, d, **shape)
        cuts = (nnz - 1) // _SPLIT if nnz else 0
        if split is not None and cuts:
            pattern, t = split
            parts = torch.empty(cuts, d, dtype=torch.float32, device=matrix.device)
            _parts[(cuts, columns)](
                matrix, matrix.stride(0), indices, values, offsets, pattern.indices, t.order, parts, d, **shape
            )
            _join[(cuts, columns)](offsets, pattern.indices, t.order, parts, out, d, WIDTH=width, SPLIT=_SPLIT)
    return out.to(matrix.dtype)


def _width(d: int) -> int:
    """Return how many columns a program has: the most for which nine of ten exist in a row of programs."""
    for width in (1024, 512, 256):
        if d >= 0.9 * triton.cdiv(d, width) * width:
            return width
    return min(triton.next_power_of_2(d), 128)


@kernel
@no_type_check
def _add(
    matrix, stride, indices, weights, start, end, column, d,
    STEP: tl.constexpr, WIDTH: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Return the sum over the pairs from ``start`` to ``end - 1``, for the columns of this program."""
    # Added up elementwise: no thread waits for another before the end of the bag.
    total = tl.zeros([STEP, WIDTH], tl.float32)
    for first in range(start, end, STEP):
        pair = first + tl.arange(0, STEP)
        inside = pair < end
        index = tl.load(indices + pair, mask=inside, other=0)
        row = tl.load(
            matrix + index[:, None] * stride + column[None, :],
            mask=inside[:, None] & (column < d)[None, :],
            other=0.0,
        ).to(tl.float32)
        if WEIGHTED:
            row = row * tl.load(weights + pair, mask=inside, other=0.0).to(tl.float32)[:, None]
        total += row
    return tl.sum(total, 0)


@kernel
@no_type_check
def _bags(
    matrix, stride, indices, weights, offsets, out, d,
    STEP: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    bag = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    start = tl.load(offsets + bag)
    end = tl.load(offsets + bag + 1)
    if SPLIT:
        end = tl.minimum(end, (start // SPLIT + 1) * SPLIT)
    total = _add(matrix, stride, indices, weights, start, end, column, d, STEP, WIDTH, WEIGHTED)
    tl.store(out + bag * d + column, total, mask=column < d)


@kernel
@no_type_check
def _parts(
    matrix, stride, indices, weights, offsets, features, order, parts, d,
    STEP: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    cut = (part + 1) * SPLIT
    bag = tl.load(features + tl.load(order + cut))
    if tl.load(offsets + bag) < cut:
        end = tl.minimum(tl.load(offsets + bag + 1), cut + SPLIT)
        total = _add(matrix, stride, indices, weights, cut, end, column, d, STEP, WIDTH, WEIGHTED)
        tl.store(parts + part * d + column, total, mask=column < d)


@kernel
@no_type_check
def _join(offsets, features, order, parts, out, d, WIDTH: tl.constexpr, SPLIT: tl.constexpr):
    part = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    cut = (part + 1) * SPLIT
    bag = tl.load(features + tl.load(order + cut))
    start = tl.load(offsets + bag)
    # The program of a bag's first cut adds all its parts; those of its later cuts have nothing to do.
    if (start < cut) & (start >= cut - SPLIT):
        last = (tl.load(offsets + bag + 1) - 1) // SPLIT
        total = tl.load(out + bag * d + column, mask=column < d, other=0.0)
        for number in range(part, last):
            total += tl.load(parts + number * d + column, mask=column < d, other=0.0)
        tl.store(out + bag * d + column, total, mask=column < d)
