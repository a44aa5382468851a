"""Matryoshka: every nested prefix of the features must reconstruct on its own."""

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule, UserError
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.reconstruction import Normalise
from sae_lightning.losses.term import LossTerm
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.matryoshka import MatryoshkaSAE


class Matryoshka(LossTerm):
    """``sum_p w_p mean_token ||y - y_hat_p||^2 [/ Var(y)]`` over the prefixes p, smallest first; a sum, not a mean.

    The last prefix is the whole SAE, so this term stands in for ``reconstruction``, not beside it.
    weights: w_p; None is 1 for each. Source: Bussmann et al. 2025, "Learning multi-level features with matryoshka
    sparse autoencoders".
    """

    name = "matryoshka"
    is_reconstruction = True

    def __init__(
        self,
        coefficient: Schedule | float = 1.0,
        weights: tuple[float, ...] | None = None,
        normalise: Normalise = "variance",
    ) -> None:
        super().__init__(coefficient)
        self.weights = None if weights is None else tuple(weights)
        self.normalise = normalise

    def check(self, sae: SparseAutoencoder) -> None:
        if not isinstance(sae, MatryoshkaSAE):
            raise UserError(f"loss matryoshka with model={sae.name}: has no prefixes; use `reconstruction` instead")
        n = len(sae.prefix_sizes)
        if self.weights is not None and len(self.weights) != n:
            raise UserError(
                f"loss matryoshka weights={list(self.weights)}: needs one weight for each of the {n} prefixes"
            )

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        assert isinstance(ctx.sae, MatryoshkaSAE)
        y_hats = ctx.sae.prefix_reconstructions(ctx.out.features, ctx.batch.x)
        errors = (y_hats - ctx.batch.y).square().sum(-1).mean(-1)
        value = errors.sum() if self.weights is None else (errors * errors.new_tensor(self.weights)).sum()
        return value / ctx.target_variance() if self.normalise == "variance" else value
