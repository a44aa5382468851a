"""Draws for shares that resampling biases: their intervals cover, and stay shares."""

import numpy as np
import pytest
import torch

from sae_lightning.core import Features
from sae_lightning.metrics import Density, Sparsity, bootstrap_weights, interval, linearised

F, T = 200, 16


def windows(rng: np.random.Generator, n: int, p: np.ndarray) -> np.ndarray:
    """Features that come in bursts: in one window of five, and there five times as often."""
    on = rng.random((n, F)) < 0.2
    return rng.random((n, T, F)) < np.where(on, np.minimum(1.0, 5 * p), 0.0)[:, None, :]


def states_of(fired: np.ndarray) -> tuple[Density, dict[str, torch.Tensor]]:
    parts = []
    for window in fired:
        density = Density(F)
        density.update(Features(torch.from_numpy(window).float(), None, None, F))
        parts.append(density)
    return parts[0], {name: torch.stack([part.state()[name] for part in parts]) for name in parts[0].state()}


@pytest.mark.parametrize("n", [64, 128])
def test_the_dead_share_s_interval_covers(n: int) -> None:
    rng = np.random.default_rng(n)
    p = 10 ** rng.uniform(-5, -1, F)
    expected = ((1 - 0.2 * (1 - (1 - np.minimum(1, 5 * p)) ** T)) ** n).mean()
    held = 0
    for repeat in range(120):
        fired = windows(rng, n, p)
        metric, states = states_of(fired)
        draws = linearised(metric, states, bootstrap_weights(n, 300, repeat))["dead"].numpy()
        limits = interval(float((~fired.any((0, 1))).mean()), draws, n)
        assert limits is not None
        assert 0 <= limits[0] <= limits[1] <= 1
        held += limits[0] <= expected <= limits[1]
    assert 0.91 <= held / 120 <= 1.0, held  # three in four with draws that are moved to the estimate


def test_nothing_dead_and_nothing_rare_is_sure() -> None:
    metric, states = states_of(np.ones((12, T, F), dtype=bool))
    draws = linearised(metric, states, bootstrap_weights(12, 100, 0))["dead"]
    assert torch.equal(draws, torch.zeros_like(draws))


def test_of_a_mean_it_is_the_bootstrap() -> None:
    """A mean over equal windows is linear already: both kinds of draws are the same (here of an l0 below 1)."""
    rng = np.random.default_rng(1)
    fired = rng.random((40, T, F)) < 0.002
    parts = []
    for window in fired:
        sparsity = Sparsity()
        sparsity.update(Features(torch.from_numpy(window).float(), None, None, F))
        parts.append(sparsity)
    states = {name: torch.stack([part.state()[name] for part in parts]) for name in parts[0].state()}
    weights = bootstrap_weights(40, 50, 3)
    plain = parts[0].values(parts[0].pool(states, weights))["l0"]
    torch.testing.assert_close(linearised(parts[0], states, weights)["l0"], plain)


def test_many_windows_are_left_out_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    import sae_lightning.metrics.bootstrap as bootstrap

    rng = np.random.default_rng(2)
    metric, states = states_of(windows(rng, 120, 10 ** rng.uniform(-4, -1, F)))
    weights = bootstrap_weights(120, 2000, 0)
    each = linearised(metric, states, weights)["dead"].std()
    monkeypatch.setattr(bootstrap, "_GROUPS", 30)
    grouped = linearised(metric, states, weights)["dead"].std()
    assert float(grouped) == pytest.approx(float(each), rel=0.35)
