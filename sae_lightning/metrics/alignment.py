"""Direction and length of reconstructions."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.metrics.running import SumMetric, ratio


class Alignment(SumMetric):
    """``cosine = mean_token cos(y, y_hat)`` and ``l2_ratio = mean_token ||y_hat|| / ||y||`` (below 1: shrinkage).

    A token with ``y = 0`` has neither and is left out; ``y_hat = 0`` has cosine 0.
    """

    _fields = ("n", "cosine", "l2_ratio")

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.n, self.cosine, self.l2_ratio = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(3))

    def update(self, y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]) -> None:
        y64, hat64 = y.detach().to(self.n), y_hat.detach().to(self.n)
        norm, hat_norm = y64.norm(dim=-1), hat64.norm(dim=-1)
        there = norm > 0
        product = norm * hat_norm
        cosine = (y64 * hat64).sum(-1) / product.where(product > 0, 1.0)
        self.n = self.n + there.sum()
        self.cosine = self.cosine + cosine.where(there, 0.0).sum()
        self.l2_ratio = self.l2_ratio + (hat_norm / norm.where(there, 1.0)).where(there, 0.0).sum()

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        return {"cosine": ratio(sums["cosine"], sums["n"]), "l2_ratio": ratio(sums["l2_ratio"], sums["n"])}
