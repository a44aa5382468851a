"""One step of Adam for a group of weights, with the projection, clipping and renormalisation around it.

Pass 1 reads the gradients (and the decoder) for the norm of the group's gradients: every program leaves a partial
sum, ``_scales`` adds them in float64 and makes the clip factor and Adam's bias corrections, all on the device. Pass 2
reads weight, gradient and both moments and writes weight and moments once. For a decoder it has a program a row: the
projection is applied to the gradient as it is read, and the row leaves with length 1. Gradients are not written.

Cost: 4 bytes a weight read in pass 1 (8 for a projected decoder), 28 in pass 2, 3 launches and one a weight.
"""

import math
from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae_lightning.sae.kernels.triton.jit import kernel

_BLOCK = 1024
#: Blocks and rows that a program of pass 1 adds.
_STEPS, _ROWS = 32, 16
#: Longest row that a program of pass 2 holds; longer ones are read again to be renormalised.
_LONGEST = 8192


@torch.no_grad()
def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Float[Tensor, ""]],
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    clip: float | None = None,
    decoder: int | None = None,
    project: bool = False,
    renormalise: bool = False,
) -> Float[Tensor, ""]:
    """Do one step in place and return the norm of all gradients, after projection and before clipping.

    steps: of each weight, this step counted already (1 in the first), float32 on the device.
    clip: largest norm; the gradients are scaled by ``min(1, clip / (norm + 1e-6))``. None: no clipping.
    decoder: which of ``params`` has rows to be projected out of its gradient and kept at length 1.
    A weight may lie by column if its moments do. Unlike ``remove_parallel_gradient`` this leaves ``grads`` as they are.
    """
    device = params[0].device
    weights = [_in_memory_order(*w) for w in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True)]
    project, renormalise = project and decoder is not None, renormalise and decoder is not None
    projected = decoder if project else None
    along = torch.empty(0 if projected is None else params[projected].shape[0], device=device)
    with torch.cuda.device_of(params[0]):
        parts = _squares(weights, projected, along)
        # Four places a weight for three numbers: every weight's are aligned alike, and one compiled kernel reads them.
        scales = torch.empty(len(weights), 4, device=device)
        norm = torch.empty((), device=device)
        rate = lr if isinstance(lr, Tensor) else torch.full((), lr, device=device)
        _scales[(len(weights),)](
            parts, parts.shape[0], torch.stack(list(steps)), rate, scales, norm, math.log(betas[0]),
            math.log(betas[1]), clip or 0.0, CLIP=clip is not None, BLOCK=_BLOCK,
        )  # fmt: skip
        constants = (betas[0], 1 - betas[0], betas[1], 1 - betas[1], eps)
        for number, weight in enumerate(weights):
            by_row = number == decoder and (project or renormalise)
            if by_row:
                n, d = params[number].shape
                width = min(triton.next_power_of_2(d), _LONGEST)
                _adam_rows[(n,)](
                    *weight, along, scales[number], d, *constants, WIDTH=width, WHOLE=d <= width, PROJECT=project,
                    RENORMALISE=renormalise, num_warps=max(1, min(16, width // 256)),
                )  # fmt: skip
            else:
                size = weight[0].numel()
                _adam_flat[(triton.cdiv(size, _BLOCK),)](*weight, scales[number], size, *constants, BLOCK=_BLOCK)
    return norm


def _in_memory_order(param: Tensor, grad: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:
    """Return views of a weight and its moments, and its gradient, in the order in which the weight lies in memory."""
    turned = param.ndim == 2 and not param.is_contiguous() and param.t().is_contiguous()
    weight, gradient, *others = (t.t() if turned else t for t in (param, grad, *moments))
    assert all(t.is_contiguous() and t.shape == weight.shape for t in (weight, *others)), "moments lie as their weight"
    return weight, gradient.contiguous(), *others


def _squares(weights: Sequence[tuple[Tensor, ...]], projected: int | None, along: Tensor) -> Tensor:
    """Return partial sums of the squares of all gradients; fill ``along`` with g . w / w . w of each decoder row."""
    programs = [
        triton.cdiv(weight[0].shape[0], _ROWS) if number == projected
        else triton.cdiv(weight[0].numel(), _BLOCK * _STEPS)
        for number, weight in enumerate(weights)
    ]  # fmt: skip
    parts = torch.empty(sum(programs), device=along.device)
    for number, (weight, part) in enumerate(zip(weights, parts.split(programs), strict=True)):
        if number == projected:
            n, d = weight[0].shape
            _row_squares[(programs[number],)](
                weight[0], weight[1], along, part, n, d, ROWS=_ROWS, WIDTH=min(triton.next_power_of_2(d), _BLOCK)
            )
        else:
            _flat_squares[(programs[number],)](weight[1], part, weight[1].numel(), STEPS=_STEPS, BLOCK=_BLOCK)
    return parts


@kernel
@no_type_check
def _flat_squares(grad, parts, size, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for step in range(STEPS):
        at = (program * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(grad + at, mask=at < size, other=0.0).to(tl.float32)
        total += g * g
    tl.store(parts + program, tl.sum(total, 0))


@kernel
@no_type_check
def _row_squares(weight, grad, along, parts, n, d, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The squares of what is left of each row's gradient without its part along the row."""
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros([WIDTH], tl.float32)
    for number in range(ROWS):
        row = program * ROWS + number
        if row < n:
            product = tl.zeros([WIDTH], tl.float32)
            square = tl.zeros([WIDTH], tl.float32)
            for first in range(0, d, WIDTH):
                column = first + tl.arange(0, WIDTH)
                g = tl.load(grad + row * d + column, mask=column < d, other=0.0).to(tl.float32)
                w = tl.load(weight + row * d + column, mask=column < d, other=0.0).to(tl.float32)
                product += g * w
                square += w * w
            length = tl.sum(square, 0)
            part = tl.sum(product, 0) / tl.where(length > 0, length, 1.0)
            tl.store(along + row, part)
            # A second reading, from the cache: the difference of two sums would lose digits.
            for first in range(0, d, WIDTH):
                column = first + tl.arange(0, WIDTH)
                g = tl.load(grad + row * d + column, mask=column < d, other=0.0).to(tl.float32)
                w = tl.load(weight + row * d + column, mask=column < d, other=0.0).to(tl.float32)
                left = g - part * w
                total += left * left
    tl.store(parts + program, tl.sum(total, 0))


@kernel
@no_type_check
def _scales(
    parts, size, steps, rate, scales, norm, log_beta1, log_beta2, clip, CLIP: tl.constexpr, BLOCK: tl.constexpr
):
    """Per weight: the factor on its gradient, lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t)."""
    number = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(parts + at, mask=at < size, other=0.0).to(tl.float64)
    length = tl.sqrt(tl.sum(total, 0))
    factor = length * 0 + 1
    if CLIP:
        # Written so that NaN stays NaN, as clip_grad_norm_ has it.
        factor = clip / (length + 1e-6)
        factor = tl.where(factor > 1, 1.0, factor)
    step = tl.load(steps + number).to(tl.float64)
    first_moment = 1 - tl.exp(step * log_beta1)
    second_moment = 1 - tl.exp(step * log_beta2)
    tl.store(scales + number * 4, factor.to(tl.float32))
    tl.store(scales + number * 4 + 1, (tl.load(rate).to(tl.float64) / first_moment).to(tl.float32))
    tl.store(scales + number * 4 + 2, (1 / tl.sqrt(second_moment)).to(tl.float32))
    if number == 0:
        tl.store(norm, length.to(tl.float32))


@kernel
@no_type_check
def _moved(weight, grad, mean, square, at, inside, factor, scales, along, beta1, rest1, beta2, rest2, eps):
    """Return the weight after Adam's step and write its moments."""
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    g = (tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) - along * w) * factor
    m = beta1 * tl.load(mean + at, mask=inside, other=0.0).to(tl.float32) + rest1 * g
    v = beta2 * tl.load(square + at, mask=inside, other=0.0).to(tl.float32) + rest2 * g * g
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, v, mask=inside)
    return w - tl.load(scales + 1) * m / (tl.sqrt_rn(v) * tl.load(scales + 2) + eps)


@kernel
@no_type_check
def _adam_flat(weight, grad, mean, square, scales, size, beta1, rest1, beta2, rest2, eps, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    factor = tl.load(scales)
    w = _moved(weight, grad, mean, square, at, inside, factor, scales, 0.0, beta1, rest1, beta2, rest2, eps)
    tl.store(weight + at, w, mask=inside)


@kernel
@no_type_check
def _adam_rows(
    weight, grad, mean, square, along, scales, d, beta1, rest1, beta2, rest2, eps,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr, PROJECT: tl.constexpr, RENORMALISE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    factor = tl.load(scales)
    part = 0.0
    if PROJECT:
        part = tl.load(along + row)
    if WHOLE:
        column = tl.arange(0, WIDTH)
        at, inside = row * d + column, column < d
        w = _moved(weight, grad, mean, square, at, inside, factor, scales, part, beta1, rest1, beta2, rest2, eps)
        if RENORMALISE:
            length = tl.sqrt_rn(tl.sum(tl.where(inside, w * w, 0.0), 0))
            w = w / tl.where(length > 0, length, 1.0)
        tl.store(weight + at, w, mask=inside)
    else:
        squares = tl.zeros([WIDTH], tl.float32)
        for first in range(0, d, WIDTH):
            column = first + tl.arange(0, WIDTH)
            at, inside = row * d + column, column < d
            w = _moved(weight, grad, mean, square, at, inside, factor, scales, part, beta1, rest1, beta2, rest2, eps)
            tl.store(weight + at, w, mask=inside)
            squares += tl.where(inside, w * w, 0.0)
        if RENORMALISE:
            length = tl.sqrt_rn(tl.sum(squares, 0))
            # The row is read again, perhaps by other threads than those that wrote it.
            tl.debug_barrier()
            for first in range(0, d, WIDTH):
                column = first + tl.arange(0, WIDTH)
                w = tl.load(weight + row * d + column, mask=column < d, other=0.0)
                tl.store(weight + row * d + column, w / tl.where(length > 0, length, 1.0), mask=column < d)
