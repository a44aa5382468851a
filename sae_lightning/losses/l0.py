"""L0 through JumpReLU's straight-through estimator."""

from typing import Annotated, Literal

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule, UserError
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.term import LossTerm
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.jumprelu import JumpReLUSAE

DEFAULT_COEFFICIENT = Schedule(1.0, "warmup", 0.3)


class L0(LossTerm):
    """``L0 = mean_token sum_i H(z_i - theta_i)`` on the *pre-activations* z, or its distance from a target.

    - ``step``:      ``L0`` itself (Gemma Scope, Lieberum et al. 2024)
    - ``target_l0``: ``(L0 / target_l0 - 1)^2`` (Rajamanoharan et al. 2024, appendix)

    The gradient reaches theta alone, through a rectangle kernel of the SAE's bandwidth. Raises UserError for an SAE
    without thresholds and for a mode without its target.
    """

    name = "l0"
    penalises_sparsity = True

    def __init__(
        self,
        coefficient: Schedule | float = DEFAULT_COEFFICIENT,
        mode: Literal["step", "target_l0"] = "step",
        target_l0: Annotated[float, Gt(0)] | None = None,
    ) -> None:
        super().__init__(coefficient)
        if (mode == "target_l0") != (target_l0 is not None):
            raise UserError(f"loss l0 mode={mode} with target_l0={target_l0}: the target goes with mode=target_l0 only")
        self.mode = mode
        self.target_l0 = target_l0

    def check(self, sae: SparseAutoencoder) -> None:
        if not isinstance(sae, JumpReLUSAE):
            raise UserError(f"loss l0 with model={sae.name}: needs the thresholds of model=jumprelu; use `l1` instead")

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        assert isinstance(ctx.sae, JumpReLUSAE)
        l0 = ctx.sae.over_shards(ctx.sae.step_sum(ctx.out)) / len(ctx.batch)
        if self.target_l0 is None:
            return l0
        # The square of a mean over all rows, not the mean of each process's square.
        return (ctx.mean_over_ranks(l0) / self.target_l0 - 1).square()
