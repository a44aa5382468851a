"""Fraction of variance unexplained: one formula, over all tokens."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.metrics.moments import Moments
from sae_lightning.metrics.running import RunningMetric, ratio, weighted


class FVU(RunningMetric):
    """``fvu = sum_t ||y_t - y_hat_t||^2 / sum_t ||y_t - mean(y)||^2`` and ``explained_variance = 1 - fvu``.

    Both sums run over all tokens and dimensions; ``mean(y)`` is the mean over all tokens, per dimension. The mean
    predictor scores 1, the identity 0. ``mse`` is the numerator over tokens and dimensions.

    One pass, float64 (see ``Moments``): data whose mean is many times its spread lose no digits, in any batch size and
    order.
    """

    _fields = ("n", "mean", "centred", "error")

    def __init__(self, d_out: int, device: torch.device | str = "cpu") -> None:
        self.n, self.mean, self.centred = Moments.empty(d_out, device)
        self.error = self.n.clone()

    def update(self, y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]) -> None:
        if y.shape[0] == 0:
            return
        y64 = y.detach().to(self.mean)
        self.n, self.mean, self.centred = Moments(self.n, self.mean, self.centred).join(Moments.of(y64))
        self.error = self.error + (y_hat.detach().to(y64) - y64).square().sum()

    def merge(self, other: RunningMetric) -> None:
        assert isinstance(other, FVU), type(other).__name__
        theirs = Moments(other.n, other.mean, other.centred)
        self.n, self.mean, self.centred = Moments(self.n, self.mean, self.centred).join(theirs)
        self.error = self.error + other.error.to(self.n)

    def pool(self, states: Mapping[str, Tensor], weights: Float[Tensor, "B W"]) -> dict[str, Tensor]:
        moments = Moments(states["n"], states["mean"], states["centred"]).pool(weights)
        return {**moments._asdict(), "error": weighted(states["error"], weights)}

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        fvu = ratio(sums["error"], sums["centred"])
        mse = ratio(sums["error"], sums["n"] * sums["mean"].shape[-1])
        return {"fvu": fvu, "explained_variance": 1.0 - fvu, "mse": mse}
