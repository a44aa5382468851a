"""Explained variance as other libraries define it, under names of their own: to compare with published numbers only."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.metrics.moments import Moments
from sae_lightning.metrics.running import RunningMetric, SumMetric, ratio


class PerTokenEV(SumMetric):
    """``ev_per_token = mean_t (1 - ||y_t - y_hat_t||^2 / ||y_t - mean(y)||^2)``: a mean of ratios, not a ratio of sums.

    mean: of y over all tokens, [d_out], known beforehand (SAELens takes each batch's, so its figure moves with the
    batch size). Tokens near the mean weigh as much as any other. A token at the mean has no ratio and is left out.
    Source: SAELens' ``explained_variance_legacy``, and SAEBench's published numbers.
    """

    _fields = ("n", "total")

    def __init__(self, mean: Float[Tensor, "d_out"]) -> None:
        self.mean = mean.double()
        self.n, self.total = (torch.zeros((), dtype=torch.float64, device=mean.device) for _ in range(2))

    def update(self, y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]) -> None:
        y64 = y.detach().to(self.mean)
        spread = (y64 - self.mean).square().sum(-1)
        error = (y_hat.detach().to(y64) - y64).square().sum(-1)
        there = spread > 0
        self.n = self.n + there.sum()
        self.total = self.total + (1.0 - error / spread.where(there, 1.0)).where(there, 0.0).sum()

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        return {"ev_per_token": ratio(sums["total"], sums["n"])}


class ResidualVarianceEV(RunningMetric):
    """``ev_residual_variance = 1 - sum_t ||r_t - mean(r)||^2 / sum_t ||y_t - mean(y)||^2``, ``r = y - y_hat``.

    Blind to a constant error. Source: dictionary_learning's ``frac_variance_explained``.
    """

    _fields = ("n", "mean", "centred", "residual_mean", "residual_centred")

    def __init__(self, d_out: int, device: torch.device | str = "cpu") -> None:
        self.n, self.mean, self.centred = Moments.empty(d_out, device)
        self.residual_mean, self.residual_centred = self.mean.clone(), self.centred.clone()

    def update(self, y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]) -> None:
        if y.shape[0] == 0:
            return
        y64 = y.detach().to(self.mean)
        self._join(Moments.of(y64), Moments.of(y64 - y_hat.detach().to(y64)))

    def _join(self, y: Moments, residual: Moments) -> None:
        n = self.n
        self.n, self.mean, self.centred = Moments(n, self.mean, self.centred).join(y)
        _, self.residual_mean, self.residual_centred = Moments(n, self.residual_mean, self.residual_centred).join(
            residual
        )

    def merge(self, other: RunningMetric) -> None:
        assert isinstance(other, ResidualVarianceEV), type(other).__name__
        self._join(
            Moments(other.n, other.mean, other.centred),
            Moments(other.n, other.residual_mean, other.residual_centred),
        )

    def pool(self, states: Mapping[str, Tensor], weights: Float[Tensor, "B W"]) -> dict[str, Tensor]:
        moments = Moments(states["n"], states["mean"], states["centred"]).pool(weights)
        residual = Moments(states["n"], states["residual_mean"], states["residual_centred"]).pool(weights)
        return {**moments._asdict(), "residual_mean": residual.mean, "residual_centred": residual.centred}

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        return {"ev_residual_variance": 1.0 - ratio(sums["residual_centred"], sums["centred"])}
