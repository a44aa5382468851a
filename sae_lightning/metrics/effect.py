"""Over how many logits an effect spreads."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.metrics.running import SumMetric, ratio


def effect_spread(difference: Float[Tensor, "T V"]) -> float:
    """Return ``(|D|_1 / |D|_2)^2 / (T V)`` of logit differences D, each token's median over the vocabulary taken off.

    From ``1 / (T V)``, when one logit of one token moves, to 1, when all move by as much; NaN where nothing moves. The
    median goes because a constant added to a token's logits changes no probability. Source: Gao et al. 2024, "Scaling
    and evaluating sparse autoencoders", section 4.5.
    """
    d = difference.double()
    d = (d - d.median(dim=-1, keepdim=True).values).abs()
    squares = float(d.square().sum())
    return float(d.sum()) ** 2 / squares / d.numel() if squares > 0 else float("nan")


class EffectSpread(SumMetric):
    """``ablation_sparsity`` = mean over (token, feature) pairs of ``effect_spread`` when the feature is removed there.

    ``ablation_sparsity_random``: the same when a random direction of the same length is removed instead. ``n`` counts
    pairs; those whose removal moved no logit are not among them.
    """

    _fields = ("n", "n_random", "removed", "random")

    def __init__(self) -> None:
        self.n, self.n_random = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        self.removed, self.random = (torch.zeros((), dtype=torch.float64) for _ in range(2))

    def update(self, removed: float, random: float) -> None:
        """Add one pair's two spreads; NaN counts nowhere."""
        if removed == removed:
            self.n, self.removed = self.n + 1, self.removed + removed
        if random == random:
            self.n_random, self.random = self.n_random + 1, self.random + random

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        return {
            "ablation_sparsity": ratio(sums["removed"], sums["n"]),
            "ablation_sparsity_random": ratio(sums["random"], sums["n_random"]),
        }
