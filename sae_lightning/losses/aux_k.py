"""AuxK: dead features learn to reconstruct what the live ones leave over."""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.reconstruction import squared_error
from sae_lightning.losses.term import LossTerm
from sae_lightning.sae import TopKSAE
from sae_lightning.sae.among import decode_among, pre_acts_among, strongest

# Elements of the masked copy of the pre-activations that is ranked at a time: bounds memory at large d_sae.
_CHUNK = 1 << 26
# Up to this many times as many dead features as are chosen a row, dense products with the dead ones alone are cheaper
# than sparse ones with the chosen: a pair costs about 0.6 us there, an entry 0.03 us here (768 wide, two cores).
_DENSE = 16


def default_k_aux(d_in: int) -> int:
    """Return the power of two nearest to ``d_in / 2`` (on a log scale): 256 for 576, 512 for 768."""
    return max(1, 2 ** round(math.log2(max(d_in, 2) / 2)))


def top_dead_padded(score: Float[Tensor, "n d_sae"], dead: Bool[Tensor, "d_sae"], k: int) -> tuple[Tensor, Tensor]:
    """Return always ``k`` features a row, [n * k]: the dead ones of highest score, marked True, then live ones.

    Sizes do not depend on the data, so nothing waits for the device.
    """
    parts = score.split(max(1, _CHUNK // score.shape[1]))
    best = [part.masked_fill(~dead, -math.inf).topk(k, dim=-1, sorted=False).indices for part in parts]
    indices = torch.cat(best).reshape(-1)
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
        k = min(self.k_aux or default_k_aux(ctx.batch.x.shape[-1]), ctx.sae.d_sae)
        ranks = ctx.sae.execution.feature_ranks
        if ctx.dead.device.type != "cpu" and ranks.alone:
            return self._without_looking(ctx, k if ctx.n_dead is None else min(k, ctx.n_dead))
        numbers = ctx.dead.nonzero()[:, 0]
        k = min(k, int(ranks.sum(torch.tensor(len(numbers), device=numbers.device))))
        if not k:
            return ctx.out.y_hat.new_zeros(())
        # Rounded ones have ties, which one process and several would break differently.
        whole = ctx.out.pre_acts
        whole = whole if whole is not None and whole.dtype == ctx.sae.W_enc.dtype else None
        best, kept = strongest(ctx.sae, ctx.batch.x, numbers, k, signed=self._signed(ctx), pre_acts=whole)
        if len(numbers) <= _DENSE * k:
            z = pre_acts_among(ctx.sae, ctx.batch.x, numbers)
            # where, not a product: what is dropped must not reach a gradient as 0 * NaN. The same below.
            chosen = torch.zeros(z.shape, dtype=torch.bool, device=z.device).scatter_(1, best, kept)
            return self._relative(ctx, decode_among(ctx.sae, self._active(ctx, z).where(chosen, 0.0), numbers))
        return self.relative_error(ctx, numbers[best].reshape(-1), kept.reshape(-1))

    def _without_looking(self, ctx: StepContext, k: int) -> Float[Tensor, ""]:
        """Return the term on an accelerator, where asking how many are dead would wait for the queue."""
        if k == 0:
            return ctx.out.y_hat.new_zeros(())
        pre_acts = ctx.out.pre_acts
        score = (ctx.sae.pre_acts(ctx.batch.x) if pre_acts is None else pre_acts).detach()
        return self.relative_error(ctx, *top_dead_padded(score.abs() if self._signed(ctx) else score, ctx.dead, k))

    def relative_error(
        self, ctx: StepContext, indices: Int[Tensor, "nnz"], is_dead: Bool[Tensor, "nnz"]
    ) -> Float[Tensor, ""]:
        """Return the term for a choice of equally many features a row, of which those not ``is_dead`` are ignored."""
        n = len(ctx.batch)
        offsets = torch.arange(n + 1, device=indices.device) * (len(indices) // n)
        values = ctx.sae.selected_pre_acts(ctx.batch.x, indices, offsets, ctx.out.pre_acts)
        values = self._active(ctx, values).where(is_dead, 0.0)
        return self._relative(ctx, ctx.sae.decode_sparse(values, indices, offsets, bias=False))

    def _active(self, ctx: StepContext, values: Tensor) -> Tensor:
        return values.relu() if self.relu and not self._signed(ctx) else values

    def _relative(self, ctx: StepContext, e_hat: Float[Tensor, "n d_out"]) -> Float[Tensor, ""]:
        """Return the error of ``e_hat`` relative to the residual's variance."""
        if ctx.out.features.input_std is not None:
            e_hat = e_hat * ctx.out.features.input_std
        residual = (ctx.batch.y - ctx.out.y_hat).detach()
        variance = ctx.variance(residual)
        # Where features are shared out nobody comes here without a dead one, which may be another process's.
        usable = (variance > 0) & (ctx.dead.any() | (not ctx.sae.execution.feature_ranks.alone))
        value = squared_error(e_hat, residual) / torch.where(usable, variance, 1.0)
        return torch.where(usable, value, 0.0)

    @staticmethod
    def _signed(ctx: StepContext) -> bool:
        return isinstance(ctx.sae, TopKSAE) and ctx.sae.selection == "abs_topk"
