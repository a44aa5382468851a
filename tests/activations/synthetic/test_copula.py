"""Correlated firing over ranks and scales, against naive sampling of every cell."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sae_lightning.activations.synthetic import SyntheticModel
from sae_lightning.activations.synthetic.copula import Copula
from sae_lightning.activations.synthetic.settings import Correlation, FiringProbability, Hierarchy
from sae_lightning.core import UserError

SCALES = [0.0, 0.05, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0]
P = np.array([1.0, 0.9, 0.5, 0.3, 0.1, 0.03, 0.01, 5e-4, 1e-9, 1e-80])


@pytest.mark.parametrize("rank", [1, 2, 10, 25, 32])
@pytest.mark.parametrize("scale", SCALES)
def test_given_what_a_row_shares_each_cell_fires_with_its_own_probability(rank: int, scale: float) -> None:
    copula = Copula(P, Correlation(rank=rank, correlation_scale=scale), seed=1)
    squared = np.square(copula.factor.astype(np.float64)).sum(1)
    np.testing.assert_allclose(squared + copula.spread**2, 1, atol=1e-6)
    n = 30_000
    rng = np.random.default_rng(int(1000 * scale) + rank)
    latent = copula.latent(rng, n)
    rows, features = latent.fires_in(rng, slice(0, len(P)))
    sparse = np.zeros((n, len(P)))
    sparse[rows, features] = 1
    assert sparse.sum() == len(rows)
    cells = latent.fires_at(rng, np.repeat(np.arange(n), len(P)), np.tile(np.arange(len(P)), n)).reshape(n, -1)
    common = latent.shared.astype(np.float64) @ copula.factor.T.astype(np.float64)
    q = norm.cdf((common - norm.isf(P)) / copula.spread)
    naive = rng.random((n, len(P))) < q
    spread = q * (1 - q)
    for fired in (sparse, cells.astype(float), naive.astype(float)):
        # Sums over rows, weighted by 1 and by what is shared: each has a known mean and variance.
        for weight in (np.ones_like(common), common, common > 1.5 * np.sqrt(squared)):
            z = ((fired - q) * weight).sum(0) / np.sqrt((spread * weight**2).sum(0) + 1)
            assert np.abs(z).max() < 5
        for i in range(len(P) - 1):
            both, expected = fired[:, i] * fired[:, i + 1], q[:, i] * q[:, i + 1]
            assert abs((both - expected).sum()) < 5 * np.sqrt((expected * (1 - expected)).sum() + 1)
    # Over rows the rate is the configured one; rows share 32 numbers at most, so each counts for itself.
    z = (sparse.mean(0) - P) / np.sqrt(P * (1 - P) / n + 1e-9)
    assert np.abs(z).max() < 5


@pytest.mark.parametrize("hierarchy", [None, Hierarchy(total_root_nodes=4, branching_factor=3)], ids=["flat", "tree"])
@pytest.mark.parametrize("scale", SCALES)
def test_models_draw_their_rates_at_every_scale(scale: float, hierarchy: Hierarchy | None) -> None:
    probability = FiringProbability(exponent=0.5, max_prob=0.4, min_prob=5e-4)
    for rank in (1, 5, 25, 32):
        correlation = Correlation(rank=rank, correlation_scale=scale)
        model = SyntheticModel(64, 32, probability, hierarchy, correlation=correlation)
        assert model.directions.isfinite().all()
        assert model.firing_probabilities.isfinite().all()
        x, truth = model.blocks(range(10))
        assert x.isfinite().all()
        top = torch.arange(64) if hierarchy is None else torch.arange(4)
        p = model.firing_probabilities[top].double()
        rates = truth.counts()[top].double() / len(x)
        assert ((rates - p) / (p * (1 - p) / len(x) + 1e-8).sqrt()).abs().max() < 5


def test_a_scale_that_makes_no_correlation_matrix_is_refused() -> None:
    for scale in (1e20, 1e39, 1e300):
        with pytest.raises(UserError, match=r"correlation_scale=1e\+\d+: .* no correlation matrix; lower it") as caught:
            SyntheticModel(64, 32, correlation=Correlation(correlation_scale=scale))
        assert "\n" not in str(caught.value)
    large = Copula(P, Correlation(correlation_scale=1e10), seed=1)
    np.testing.assert_allclose(np.square(large.factor.astype(np.float64)).sum(1), 0.99, atol=1e-5)
