"""Unit directions in superposition, and the bias of the data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.activations.synthetic.settings import Orthogonalization
from sae_lightning.core import UserError, torch_generator
from sae_lightning.core.progress import progress


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that the bits of the result do not depend on how many a machine has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def draw_directions(n: int, d: int, seed: int, how: Orthogonalization | None) -> Float[Tensor, "n d"]:
    """Return n unit directions: uniform on the sphere, then driven apart if ``how`` says so."""
    start = torch.randn(n, d, generator=torch_generator(seed, "synthetic", "directions"))
    start = _unit(start)
    return start if how is None else orthogonalised(start, how)


def orthogonalised(start: Float[Tensor, "n d"], how: Orthogonalization) -> Float[Tensor, "n d"]:
    """Return the directions after ``how.num_steps`` of Adam on the loss that ``Orthogonalization`` names.

    Raises UserError where a learning rate leads to directions that are not finite.
    """
    e = start.clone()
    optimizer = torch.optim.Adam([e], lr=how.lr)
    with one_thread(), progress("driving directions apart", how.num_steps) as advance:
        for _ in range(how.num_steps):
            # sum_j (e_i . e_j) e_j = e_i (E^T E): O(n d^2), and the n x n products are never made.
            squared = e.square().sum(1, keepdim=True)
            e.grad = 4 * (e @ (e.T @ e) - squared * e + len(e) * (squared - 1) * e)
            optimizer.step()
            advance(1)
    e = _unit(e)
    if not e.isfinite().all():
        raise UserError(
            f"orthogonalization.lr={how.lr:g}: {how.num_steps} steps of it lead to directions that are not finite; "
            "lower it (0.01 does well)"
        )
    return e


def draw_bias(d: int, seed: int, bias: bool | float) -> Float[Tensor, "d"]:
    """Return the bias: zeros for False, else a random direction of norm ``bias`` (1 for True)."""
    if bias is False or bias == 0:
        return torch.zeros(d)
    direction = torch.randn(d, generator=torch_generator(seed, "synthetic", "bias"))
    return direction / direction.norm() * float(bias)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
