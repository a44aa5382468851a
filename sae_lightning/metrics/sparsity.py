"""How many features a token has, and how much of them."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Features
from sae_lightning.metrics.running import SumMetric, ratio


class Sparsity(SumMetric):
    """``l0 = mean_token #{i: f_i != 0}`` and ``l1 = mean_token sum_i |f_i|``."""

    _fields = ("n", "l0", "l1")

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.n, self.l0 = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self.l1 = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, features: Features) -> None:
        self.n = self.n + features.n_rows
        self.l0 = self.l0 + (features.values.detach() != 0).sum()
        self.l1 = self.l1 + features.values.detach().abs().sum(dtype=torch.float64)

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        return {"l0": ratio(sums["l0"], sums["n"]), "l1": ratio(sums["l1"], sums["n"])}
