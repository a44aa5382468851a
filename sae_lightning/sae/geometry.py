"""Geometry of decoder rows and of clouds of activations."""

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK_BYTES = 3 << 20


@torch.no_grad()
def geometric_median(
    x: Float[Tensor, "n d"], *, max_iterations: int = 200, tolerance: float = 1e-7
) -> Float[Tensor, "d"]:
    """Return the point with the least summed distance to the rows of ``x``, in float64 (Weiszfeld's iteration).

    Stops once a step is shorter than ``tolerance`` times the mean distance. Rows are centred on their mean first, so
    that a cloud far from the origin loses no digits.
    """
    mean = x.double().mean(0)
    rows = x.double() - mean
    squares = rows.square().sum(1)
    floor = squares.mean().sqrt() * 1e-12
    point = torch.zeros_like(mean)
    for _ in range(max_iterations):
        distances = (squares - 2 * (rows @ point) + point.square().sum()).clamp(min=0).sqrt()
        weights = 1 / distances.clamp(min=floor.clamp(min=torch.finfo(torch.float64).tiny))
        moved = (weights @ rows) / weights.sum()
        step = (moved - point).norm()
        point = moved
        if step <= tolerance * distances.mean():
            break
    return point + mean


def decoder_norms(W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "d_sae"]:
    """Return the length of each decoder row."""
    return W_dec.norm(dim=1)


@torch.no_grad()
def row_dots(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Return ``a_i . b_i`` of each row.

    A block of rows at a time on the CPU: the product stays in the cache (4 ms against 19 at 16,384 x 768).
    """
    if a.device.type != "cpu":
        return (a * b).sum(1)
    rows = max(1, _BLOCK_BYTES // (a.shape[1] * a.element_size()))
    out = a.new_empty(len(a))
    product = a.new_empty(min(rows, len(a)), a.shape[1])
    for first in range(0, len(a), rows):
        part = slice(first, first + rows)
        own = torch.mul(a[part], b[part], out=product[: len(a[part])])
        torch.sum(own, 1, out=out[part])
    return out


@torch.no_grad()
def remove_parallel_gradient(W_dec: Float[Tensor, "d_sae d_out"]) -> None:
    """Subtract from ``W_dec.grad`` its component along each row, in place: what renormalising would undo anyway.

    Nothing happens without a gradient, and to rows of zeros.
    """
    if W_dec.grad is None:
        return
    squares = W_dec.norm(dim=1).square()
    along = row_dots(W_dec.grad, W_dec) / torch.where(squares > 0, squares, 1.0)
    W_dec.grad.addcmul_(along[:, None], W_dec, value=-1)


@torch.no_grad()
def renormalise(W_dec: Float[Tensor, "d_sae d_out"], norm: float = 1.0) -> None:
    """Give each decoder row the length ``norm``, in place; rows of zeros stay."""
    norms = W_dec.norm(dim=1, keepdim=True)
    W_dec.mul_(torch.where(norms > 0, norm / norms, 1.0))
