"""Fraction of variance unexplained: one formula, over all tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.metrics.running import RunningMetric, ratio


class FVU(RunningMetric):
    """``fvu = sum_t ||y_t - y_hat_t||^2 / sum_t ||y_t - mean(y)||^2`` and ``explained_variance = 1 - fvu``.

    Both sums run over all tokens and dimensions; ``mean(y)`` is the mean over all tokens, per dimension. The mean
    predictor scores 1, the identity 0. ``mse`` is the numerator over tokens and dimensions.

    One pass, float64: each batch brings its own mean and centred sum, joined by Chan's formula (Chan, Golub, LeVeque
    1979), so data whose mean is many times its spread lose no digits, in any batch size and order.
    """

    _fields = ("n", "mean", "centred", "error")

    def __init__(self, d_out: int, device: torch.device | str = "cpu") -> None:
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self.n, self.centred, self.error = zero, zero.clone(), zero.clone()
        self.mean = torch.zeros(d_out, dtype=torch.float64, device=device)

    def update(self, y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]) -> None:
        if y.shape[0] == 0:
            return
        y64 = y.detach().to(self.mean)
        mean = y64.mean(0)
        self._join(self.n.new_full((), len(y64)), mean, (y64 - mean).square().sum())
        self.error = self.error + (y_hat.detach().to(y64) - y64).square().sum()

    def _join(self, n: Tensor, mean: Tensor, centred: Tensor) -> None:
        total = self.n + n
        step = mean - self.mean
        self.centred = self.centred + centred + step.square().sum() * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n = total

    def merge(self, other: RunningMetric) -> None:
        assert isinstance(other, FVU), type(other).__name__
        if float(other.n) == 0:
            return
        self._join(other.n.to(self.n), other.mean.to(self.mean), other.centred.to(self.n))
        self.error = self.error + other.error.to(self.n)

    def compute(self) -> dict[str, float]:
        fvu = ratio(self.error, self.centred)
        return {"fvu": fvu, "explained_variance": 1.0 - fvu, "mse": ratio(self.error, self.n * self.mean.numel())}
