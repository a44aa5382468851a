"""Pooling windows under weights is merging them so many times: for every metric, whatever its formula."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sae_lightning.core import Features, torch_generator
from sae_lightning.metrics import (
    FVU,
    Alignment,
    Density,
    DownstreamLoss,
    Moments,
    PerTokenEV,
    ResidualVarianceEV,
    RunningMetric,
    Sparsity,
    bootstrap_weights,
    interval,
)

W, D, F = 7, 5, 11
MEAN = torch.full((D,), 30.0)


def windows() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Seven windows of different lengths, one of them empty: y around 30, a reconstruction, features."""
    g = torch_generator(3, "pool")
    out = []
    for n in (9, 4, 0, 30, 1, 17, 8):
        y = torch.randn(n, D, generator=g) + MEAN + torch.randn(D, generator=g)
        f = torch.relu(torch.randn(n, F, generator=g) - 0.5)
        out.append((y, y + 0.3 * torch.randn(n, D, generator=g) + 0.1, f))
    return out


def rows(metric: RunningMetric, window: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    metric.update(window[0], window[1])  # type: ignore[attr-defined]  # each metric has an update of its own


def features(metric: RunningMetric, window: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    metric.update(Features(window[2], None, None, F))  # type: ignore[attr-defined]


def losses(metric: RunningMetric, window: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    assert isinstance(metric, DownstreamLoss)
    metric.update_clean(window[0].abs().sum(1))
    for i, run in enumerate(("spliced", "zero", "mean")):
        metric.update_run(run, window[0].abs().sum(1) + i, window[1].abs().sum(1) * i)


KINDS: dict[str, tuple[Callable[[], RunningMetric], Callable[..., None]]] = {
    "fvu": (lambda: FVU(D), rows),
    "residual": (lambda: ResidualVarianceEV(D), rows),
    "per_token": (lambda: PerTokenEV(MEAN), rows),
    "alignment": (Alignment, rows),
    "sparsity": (Sparsity, features),
    "density": (lambda: Density(F), features),
    "downstream": (DownstreamLoss, losses),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_is_merging(kind: str) -> None:
    make, feed = KINDS[kind]
    parts = [make() for _ in range(W)]
    for part, window in zip(parts, windows(), strict=True):
        feed(part, window)
    states = {name: torch.stack([part.state()[name] for part in parts]) for name in parts[0].state()}
    weights = bootstrap_weights(W, 20, seed=1)
    pooled = parts[0].values(parts[0].pool(states, weights))
    for b in range(20):
        merged = make()
        for part, times in zip(parts, weights[b], strict=True):
            for _ in range(int(times)):
                merged.merge(part)
        for name, value in merged.compute().items():
            assert float(pooled[name][b]) == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), (name, b)


def test_moments_of_far_data_lose_no_digits() -> None:
    g = torch_generator(1, "far")
    parts = [torch.randn(n, 3, generator=g, dtype=torch.float64) + 1e6 for n in (5, 60, 13)]
    joined = Moments.empty(3)
    for part in parts:
        joined = joined.join(Moments.of(part))
    whole = torch.cat(parts)
    assert float(joined.centred) == pytest.approx(float((whole - whole.mean(0)).square().sum()), rel=1e-9)
    each = [Moments.of(part) for part in parts]
    stacked = Moments(*(torch.stack(values) for values in zip(*each, strict=True)))
    pooled = stacked.pool(torch.ones(1, 3, dtype=torch.float64))
    assert float(pooled.centred[0]) == pytest.approx(float(joined.centred), rel=1e-9)


def test_weights_are_multinomial_and_shared() -> None:
    weights = bootstrap_weights(50, 4000, seed=3)
    assert torch.equal(weights.sum(1), torch.full((4000,), 50.0, dtype=torch.float64))
    assert torch.equal(weights, bootstrap_weights(50, 4000, seed=3))
    assert not torch.equal(weights, bootstrap_weights(50, 4000, seed=4))
    # A window's count has mean 1 and variance 1 - 1/n; of two windows the covariance is -1/n.
    np.testing.assert_allclose(weights.mean(0), 1.0, atol=0.08)
    np.testing.assert_allclose(weights.var(0), 1 - 1 / 50, atol=0.12)


def test_an_interval_holds_its_estimate_or_is_none() -> None:
    draws = np.random.default_rng(0).normal(5.0, 1.0, 2000)
    found = interval(5.0, draws, 400)
    assert found is not None
    low, high = found
    assert low == pytest.approx(5 - 1.97, abs=0.15)
    assert high == pytest.approx(5 + 1.97, abs=0.15)
    few = interval(5.0, draws, 8)
    assert few is not None
    assert few[1] - few[0] > 1.2 * (high - low)  # Student's quantile for eight windows
    assert interval(5.0, draws, 7) is None
    assert interval(float("nan"), draws, 400) is None
    assert interval(5.0, np.array([]), 400) is None
    draws[:400] = np.nan
    assert interval(5.0, draws, 400) is None
