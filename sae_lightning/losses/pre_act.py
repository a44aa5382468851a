"""The pre-activation loss: features below their threshold are pulled towards it, so none stays dead."""

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule, UserError
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.term import LossTerm
from sae_lightning.losses.weights import DecoderNorm, penalty_weights
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.jumprelu import JumpReLUSAE


class PreAct(LossTerm):
    """``mean_token sum_i ReLU(theta_i - z_i) w_i`` with ``w_i = ||d_i||`` (Anthropic, January 2025, for JumpReLU).

    Every feature that does not fire is paid for, with a gradient to its encoder as well as its threshold; the
    coefficient is small (3e-6) because most features do not fire. decoder_norm: see ``penalty_weights``.
    """

    name = "pre_act"
    reads_pre_acts = True

    def __init__(
        self,
        coefficient: Schedule | float = 3e-6,
        decoder_norm: DecoderNorm = "weighted",
    ) -> None:
        super().__init__(coefficient)
        self.decoder_norm: DecoderNorm = decoder_norm

    def check(self, sae: SparseAutoencoder) -> None:
        if not isinstance(sae, JumpReLUSAE):
            raise UserError(f"loss pre_act with model={sae.name}: needs thresholds; use model=jumprelu")

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        assert isinstance(ctx.sae, JumpReLUSAE)
        weights = penalty_weights(ctx.sae, self.decoder_norm)
        z = ctx.pre_acts()
        # Summed over tokens first: what is left to weigh has d_sae entries.
        below = (ctx.sae.theta.to(z.dtype) - z).relu().sum(0)
        return ctx.sae.over_shards((below * weights).sum()) / len(ctx.batch)
