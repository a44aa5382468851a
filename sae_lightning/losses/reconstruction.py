"""Reconstruction error: the one term every objective has."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.term import LossTerm, Reduction

Normalise = Literal["none", "variance"]


def squared_error(y_hat: Float[Tensor, "n d_out"], y: Float[Tensor, "n d_out"]) -> Float[Tensor, ""]:
    """Return the per-token SSE, mean over tokens."""
    return (y_hat - y).square().sum(-1).mean()


class Reconstruction(LossTerm):
    """``mean_token ||y - y_hat||^2``, the convention that every coefficient in this package is stated in.

    reduction: ``per_token_sum`` is that; ``element_mean`` divides it by d_out (``torch.nn.functional.mse_loss``),
        for papers and notes that state their coefficients so.
    normalise: ``variance`` divides by ``Var(y) = mean_token ||y - mean(y)||^2`` of the batch, detached (Gao et al.
        2024, "Scaling and evaluating sparse autoencoders"): the value is then the batch's fvu.
    """

    name = "reconstruction"
    is_reconstruction = True

    def __init__(
        self,
        coefficient: Schedule | float = 1.0,
        reduction: Reduction = "per_token_sum",
        normalise: Normalise = "none",
    ) -> None:
        super().__init__(coefficient)
        self.reduction = reduction
        self.normalise = normalise

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        value = squared_error(ctx.out.y_hat, ctx.batch.y) * self.per_token_factor(1, ctx.batch.y.shape[-1], 1)
        return value / ctx.target_variance() if self.normalise == "variance" else value

    def per_token_factor(self, batch_size: int, d_out: int, d_sae: int) -> float:
        return 1.0 / d_out if self.reduction == "element_mean" else 1.0
