"""Mean and spread of vectors, in one pass that loses no digits where the mean dwarfs the spread."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.metrics.running import weighted


class Moments(NamedTuple):
    """``n``, ``mean [..., d]`` and ``centred = sum_t ||v_t - mean||^2`` of n vectors, float64.

    Parts are joined by Chan's formula (Chan, Golub, LeVeque 1979): each brings its own mean and centred sum.
    """

    n: Tensor
    mean: Float[Tensor, "*sets d"]
    centred: Tensor

    @classmethod
    def empty(cls, d: int, device: torch.device | str = "cpu") -> "Moments":
        """Return the moments of no vectors."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(zero, torch.zeros(d, dtype=torch.float64, device=device), zero)

    @classmethod
    def of(cls, values: Float[Tensor, "n d"]) -> "Moments":
        """Return the moments of float64 rows (at least one)."""
        mean = values.mean(0)
        return cls(mean.new_full((), len(values)), mean, (values - mean).square().sum())

    def join(self, other: "Moments") -> "Moments":
        """Return the moments of both parts together."""
        n, mean, centred = (value.to(self.mean) for value in other)
        total = self.n + n
        share = n / torch.where(total > 0, total, 1.0)
        step = mean - self.mean
        return Moments(total, self.mean + step * share, self.centred + centred + step.square().sum() * self.n * share)

    def pool(self, weights: Float[Tensor, "B W"]) -> "Moments":
        """Return the moments [B] of W parts (n [W], mean [W, d], centred [W]) under B sets of weights."""
        n = self.n.to(weights)
        # Deviations from the common mean first: what is squared and subtracted then has the size of the spread.
        common = (n[:, None] * self.mean.to(weights)).sum(0) / n.sum().clamp(min=1)
        deviation = self.mean.to(weights) - common
        total = weighted(n, weights)
        first = weighted(n[:, None] * deviation, weights)
        second = weighted(n * deviation.square().sum(-1), weights)
        step = first / torch.where(total > 0, total, 1.0)[:, None]
        between = (second - step.square().sum(-1) * total).clamp(min=0)
        return Moments(total, common + step, weighted(self.centred, weights) + between)
