"""The tanh penalty: an L0 that has a slope."""

from typing import Annotated

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.term import LossTerm
from sae_lightning.losses.weights import DecoderNorm, penalty_weights, weigh

DEFAULT_COEFFICIENT = Schedule(1.0, "warmup", 1.0)


class Tanh(LossTerm):
    """``mean_token sum_i tanh(c |f_i| w_i)`` with ``w_i = ||d_i||`` and c = 4 (Anthropic, January 2025, for JumpReLU).

    Saturates for active features, so it counts rather than weighs them. Its coefficient warms up over all of training
    by default. decoder_norm: see ``penalty_weights``.
    """

    name = "tanh"
    penalises_sparsity = True

    def __init__(
        self,
        coefficient: Schedule | float = DEFAULT_COEFFICIENT,
        c: Annotated[float, Gt(0)] = 4.0,
        decoder_norm: DecoderNorm = "weighted",
    ) -> None:
        super().__init__(coefficient)
        self.c = c
        self.decoder_norm: DecoderNorm = decoder_norm

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        weights = penalty_weights(ctx.sae, self.decoder_norm)
        total = (self.c * weigh(ctx.out.features, weights)).tanh().sum()
        return ctx.sae.over_shards(total) / ctx.out.features.n_rows
