"""L1 on feature activations, and its p-annealed form."""

from typing import Annotated

from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.term import LossTerm, SparsityReduction
from sae_lightning.losses.weights import DecoderNorm, penalty_weights, weigh

DEFAULT_COEFFICIENT = Schedule(5.0, "warmup", 0.05)


class L1(LossTerm):
    """``mean_token sum_i (|f_i| w_i)^p`` with ``w_i = ||d_i||`` and p = 1 (Anthropic, April 2024).

    Of several sites (a crosscoder) w_i is the sum of their norms.

    decoder_norm: ``weighted`` | ``detached`` | ``plain``, see ``penalty_weights``.
    p_start, p_end, p_from: p stays at ``p_start`` until the share ``p_from`` of training, then falls linearly to
        ``p_end`` at its end (p-annealing, Karvonen et al. 2024: 1 -> 0.2). A feature at 0 has gradient 0 for every p.
    reduction: ``per_token_sum``, or as others state it: ``element_mean`` (mean over tokens and features) and
        ``batch_sum`` (sum over all of them: the only choice that grows with the batch).

    Linear in the activations, so its coefficient means what it says only for inputs of known scale: the default 5 is
    for ``E||x|| = sqrt(d)``.
    """

    name = "l1"
    penalises_sparsity = True

    def __init__(
        self,
        coefficient: Schedule | float = DEFAULT_COEFFICIENT,
        reduction: SparsityReduction = "per_token_sum",
        decoder_norm: DecoderNorm = "weighted",
        p_start: Annotated[float, Gt(0), Le(2)] = 1.0,
        p_end: Annotated[float, Gt(0), Le(2)] = 1.0,
        p_from: Annotated[float, Ge(0), Le(1)] = 0.0,
    ) -> None:
        super().__init__(coefficient)
        self.reduction = reduction
        self.decoder_norm: DecoderNorm = decoder_norm
        self.p_start, self.p_end, self.p_from = p_start, p_end, p_from

    def p_at(self, progress: float) -> float:
        """Return the exponent at ``progress``."""
        span = 1.0 - self.p_from
        share = 1.0 if span == 0 else min(max((progress - self.p_from) / span, 0.0), 1.0)
        return self.p_start + (self.p_end - self.p_start) * share

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        features = ctx.out.features
        values = weigh(features, penalty_weights(ctx.sae, self.decoder_norm))
        p = self.p_at(ctx.progress)
        if p != 1.0:
            active = values > 0
            # 0^p has an infinite slope for p < 1: inactive entries are raised as 1 and then dropped.
            values = values.where(active, 1.0).pow(p) * active
        n = features.n_rows
        factor = self.per_token_factor(ctx.rows, ctx.batch.y.shape[-1], ctx.sae.d_sae)
        return ctx.sae.over_shards(values.sum() / n) * factor

    def per_token_factor(self, batch_size: int, d_out: int, d_sae: int) -> float:
        return {"per_token_sum": 1.0, "element_mean": 1.0 / d_sae, "batch_sum": float(batch_size)}[self.reduction]
