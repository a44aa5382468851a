"""How often each feature is active."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import Features
from sae_lightning.metrics.running import SumMetric, ratio


class Density(SumMetric):
    """``density_i`` = share of tokens on which feature i is active (not 0).

    ``dead`` is the share of features with density 0 on the n tokens seen: it falls with n, so it is nothing without n.
    ``dense_share`` is the share with density above ``dense_above``.
    """

    _fields = ("n", "counts")

    def __init__(self, d_sae: int, dense_above: float = 0.1, device: torch.device | str = "cpu") -> None:
        self.n = torch.zeros((), dtype=torch.int64, device=device)
        self.counts = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.dense_above = dense_above

    def update(self, features: Features) -> None:
        self.n = self.n + features.n_rows
        self.counts = self.counts + features.counts()

    def density(self) -> Float[Tensor, "d_sae"]:
        """Return each feature's density, float64 (NaN before any token)."""
        return self.counts.double() / self.n.double()

    def histogram(self, bins: int = 50, lowest: float = -7.0) -> tuple[Int[Tensor, "bins"], Float[Tensor, "edges"]]:
        """Return counts of ``log10(density)`` in ``bins`` equal bins from ``lowest`` to 0, and their edges.

        Features that never fired are in no bin; rarer ones than ``10**lowest`` are in the first.
        """
        edges = torch.linspace(lowest, 0.0, bins + 1, dtype=torch.float64)
        active = self.density()[self.counts > 0].log10().clamp(lowest, 0.0).cpu()
        place = ((active - lowest) / -lowest * bins).long().clamp(0, bins - 1)
        return torch.bincount(place, minlength=bins), edges

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        n, counts = sums["n"], sums["counts"]
        d_sae = torch.where(n > 0, float(counts.shape[-1]), 0.0)
        dense = counts > self.dense_above * n[:, None]
        return {"dead": ratio((counts == 0).sum(-1), d_sae), "dense_share": ratio(dense.sum(-1), d_sae)}
