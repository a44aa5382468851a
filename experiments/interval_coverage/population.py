"""A known population of windows, and how often intervals from samples of it cover its values."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sae_lightning.core import Features, derive_seed, torch_generator
from sae_lightning.metrics import (
    FVU,
    Alignment,
    DownstreamLoss,
    PerTokenEV,
    ResidualVarianceEV,
    RunningMetric,
    Sparsity,
    bootstrap_weights,
    interval,
)

POPULATION, TOKENS, D = 3000, 16, 6

Values = dict[str, np.ndarray]


class Population:
    """Windows of 16 tokens with a direction and a scale of their own (log-normal, or Student's t in a loss's noise)."""

    def __init__(self) -> None:
        g = torch_generator(0, "experiments", "interval_coverage")

        def normal(*shape: int) -> Tensor:
            return torch.randn(POPULATION, *shape, generator=g, dtype=torch.float64)

        self.scale = (0.35 * normal()).exp()  # the spread of a window's tokens
        factor = (0.25 * normal()).exp()  # how badly a window is reconstructed, whatever its spread
        self.y = 30.0 + normal(1, D) + self.scale[:, None, None] * normal(TOKENS, D)
        error = 0.3 * normal(TOKENS, D) + 0.3 * normal(1, D) + 0.1
        self.y_hat = self.y + (self.scale * factor)[:, None, None] * error
        self.l0 = torch.poisson((12.0 * factor)[:, None].expand(-1, TOKENS), generator=g).clamp(1, 60).long()
        self.clean = 3.0 * self.scale[:, None].sqrt() * (0.5 * normal(TOKENS)).exp()
        tail = normal(TOKENS) / normal(TOKENS, 5).square().mean(-1).sqrt()  # 5 degrees of freedom
        self.harm = {
            run: size * factor[:, None] * (1.0 + 0.5 * normal(1) + 0.5 * tail * normal(TOKENS))
            for run, size in (("spliced", 0.2), ("mean", 3.0), ("zero", 8.0))
        }
        self.divergence = {run: harm.abs() for run, harm in self.harm.items()}
        self.mean = self.y.flatten(0, 1).mean(0)

    def of(self, make: Callable[["Population", int], RunningMetric]) -> dict[str, Tensor]:
        """Return each window's own sums, stacked."""
        states = [make(self, w).state() for w in range(POPULATION)]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def of_rows(metric: RunningMetric, p: Population, w: int) -> RunningMetric:
    metric.update(p.y[w], p.y_hat[w])  # pyright: ignore[reportAttributeAccessIssue]
    return metric


def sparsity(p: Population, w: int) -> RunningMetric:
    counts = p.l0[w]
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    indices = torch.cat([torch.arange(int(n)) for n in counts])
    metric = Sparsity()
    metric.update(Features(p.scale[w].float().expand(len(indices)), indices, offsets, 64))
    return metric


def downstream(p: Population, w: int) -> RunningMetric:
    metric = DownstreamLoss()
    metric.update_clean(p.clean[w])
    for run, harm in p.harm.items():
        metric.update_run(run, p.clean[w] + harm[w], p.divergence[run][w])
    return metric


METRICS: dict[str, Callable[[Population, int], RunningMetric]] = {
    "fvu": lambda p, w: of_rows(FVU(D), p, w),
    "ev_residual_variance": lambda p, w: of_rows(ResidualVarianceEV(D), p, w),
    "ev_per_token": lambda p, w: of_rows(PerTokenEV(p.mean), p, w),
    "alignment": lambda p, w: of_rows(Alignment(), p, w),
    "sparsity": sparsity,
    "downstream": downstream,
}


def pooled(metric: RunningMetric, states: dict[str, Tensor], weights: Tensor) -> Values:
    return {name: value.numpy() for name, value in metric.values(metric.pool(states, weights)).items()}


def coverage(
    metric: RunningMetric, states: dict[str, Tensor], sample: int, resamples: int, draws: int = 1000
) -> dict[str, float]:
    """Return by figure the share of samples whose interval covers the population's value."""
    truth = pooled(metric, states, torch.ones(1, POPULATION, dtype=torch.float64))
    rng = np.random.default_rng(derive_seed(1, "experiments", "interval_coverage"))
    hits = dict.fromkeys(truth, 0)
    weights = bootstrap_weights(sample, draws, seed=0)  # one seed for all data, as it is in use
    for _ in range(resamples):
        chosen = torch.from_numpy(rng.integers(0, POPULATION, sample))
        drawn = {name: value[chosen] for name, value in states.items()}
        estimate = pooled(metric, drawn, torch.ones(1, sample, dtype=torch.float64))
        resampled = pooled(metric, drawn, weights)
        for name, value in truth.items():
            found = interval(float(estimate[name][0]), resampled[name], sample)
            assert found is not None
            hits[name] += found[0] <= value[0] <= found[1]
    return {name: n / resamples for name, n in hits.items()}
