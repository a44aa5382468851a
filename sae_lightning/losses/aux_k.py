"""AuxK: dead features learn to reconstruct what the live ones leave over."""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext, token_variance
from sae_lightning.losses.reconstruction import squared_error
from sae_lightning.losses.term import LossTerm

# Elements of the masked copy of the pre-activations that is ranked at a time: bounds memory at large d_sae.
_CHUNK = 1 << 26


def default_k_aux(d_in: int) -> int:
    """Return the power of two nearest to ``d_in / 2`` (on a log scale): 256 for 576, 512 for 768."""
    return max(1, 2 ** round(math.log2(max(d_in, 2) / 2)))


def top_dead(
    pre_acts: Float[Tensor, "n d_sae"], dead: Bool[Tensor, "d_sae"], k: int
) -> tuple[Int[Tensor, "n_times_k"], Bool[Tensor, "n_times_k"]]:
    """Return the ``k`` dead features with the largest pre-activations of each row, row by row, and which are dead.

    A fixed number per row, whatever the number of dead features: nothing waits for the device. Where fewer than k are
    dead the remaining places hold live features, marked False.
    """
    chosen: list[Tensor] = []
    for rows in pre_acts.detach().split(max(1, _CHUNK // pre_acts.shape[1])):
        chosen.append(rows.masked_fill(~dead, -math.inf).topk(k, dim=-1, sorted=False).indices)
    indices = torch.cat(chosen).reshape(-1)
    return indices, dead[indices]


class AuxK(LossTerm):
    """``mean_token ||e - e_hat||^2 / Var(e)`` with ``e = y - y_hat`` and ``e_hat = W_dec^T TopK_k_aux(z_dead)``.

    ``z_dead`` are the pre-activations of dead features, ReLU'd after the selection (AbsTopK: chosen by size, sign
    kept); ``e`` is detached and ``Var(e) = mean_token ||e - mean(e)||^2``; ``e_hat`` has no
    ``b_dec``, which already had its say in ``y_hat``.
    Gradients reach the encoder columns and decoder rows of the chosen dead features, and are exactly 0 for live ones.
    0 when no feature is dead or the residual has no variance (Gao et al. 2024 write NaN -> 0).

    k_aux: features per row; None is the power of two nearest to ``d_in / 2``. Never more than ``d_sae``.
    relu:  False lets chosen features write with negative activations, so features whose pre-activations are negative
        everywhere are trained too.
    """

    name = "aux_k"

    def __init__(
        self,
        coefficient: Schedule | float = 1 / 32,
        k_aux: Annotated[int, Ge(1)] | None = None,
        relu: bool = True,
    ) -> None:
        super().__init__(coefficient)
        self.k_aux = k_aux
        self.relu = relu

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        pre_acts, dead, x = ctx.out.pre_acts, ctx.dead, ctx.batch.x
        n, d_sae = pre_acts.shape
        k = min(self.k_aux or default_k_aux(x.shape[-1]), d_sae)
        n_dead = int(dead.sum()) if ctx.n_dead is None and dead.device.type == "cpu" else ctx.n_dead
        if n_dead is not None:
            if n_dead == 0:
                return ctx.out.y_hat.new_zeros(())
            k = min(k, n_dead)
        residual = (ctx.batch.y - ctx.out.y_hat).detach()
        signed = getattr(ctx.sae, "selection", None) == "abs_topk"
        indices, is_dead = top_dead(pre_acts.detach().abs() if signed else pre_acts, dead, k)
        offsets = torch.arange(n + 1, device=indices.device) * k
        values = ctx.sae.selected_pre_acts(x, indices, offsets, pre_acts)
        values = values.relu() if self.relu and not signed else values
        # where, not a product: what is dropped must not reach a gradient as 0 * NaN. The same below.
        values = values.where(is_dead, 0.0)
        e_hat = ctx.sae.decode_sparse(values, indices, offsets, bias=False)
        if ctx.out.features.input_std is not None:
            e_hat = e_hat * ctx.out.features.input_std
        variance = token_variance(residual)
        usable = (variance > 0) & dead.any()
        value = squared_error(e_hat, residual) / torch.where(usable, variance, 1.0)
        return torch.where(usable, value, 0.0)
