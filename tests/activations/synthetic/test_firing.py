"""Sparse draws have the distribution that drawing every cell would have."""

import numpy as np
import pytest
import torch

from sae_lightning.activations.synthetic.bernoulli import independent
from sae_lightning.activations.synthetic.copula import Copula
from sae_lightning.activations.synthetic.settings import Correlation, FiringProbability, Hierarchy
from tests.activations.synthetic.small import CORRELATION, HIERARCHY, small


def counts(model, n_blocks: int = 40) -> torch.Tensor:
    """Return the dense firings [n, features] of some blocks."""
    return torch.cat([model.block(i)[1].dense() > 0 for i in range(n_blocks)])


def test_independent_draws_have_their_rates_and_no_correlation() -> None:
    rng = np.random.default_rng(3)
    p = np.array([1.0, 0.7, 0.5, 0.3, 0.29, 0.01, 0.012, 0.001])
    n = 200_000
    rows, features = independent(rng, n, p)
    cells = rows * len(p) + features
    assert len(np.unique(cells)) == len(cells)
    assert (rows.min(), rows.max()) == (0, n - 1)
    fired = np.zeros((n, len(p)), bool)
    fired[rows, features] = True
    z = (fired.mean(0) - p) / np.sqrt(np.maximum(p * (1 - p), 1e-9) / n)
    assert np.abs(z).max() < 4.5
    assert np.abs(np.corrcoef(fired[:, 1:].T.astype(float)) - np.eye(7)).max() < 0.012
    # The first row is drawn like any other: gaps that start one too late or early would show in it.
    first = np.stack([np.bincount(independent(rng, 1, p)[1], minlength=8) for _ in range(4000)])
    np.testing.assert_allclose(first.mean(0), p, atol=0.04)


@pytest.mark.parametrize("scale", [0.0, 0.3, 0.8])
def test_the_copula_keeps_every_rate_and_has_the_joint_rates_of_a_dense_draw(scale: float) -> None:
    p = np.array([0.5, 0.3, 0.1, 0.1, 0.03, 0.9])
    copula = Copula(p, Correlation(rank=3, correlation_scale=scale), seed=5)
    np.testing.assert_allclose(np.square(copula.factor).sum(1) + copula.spread**2, 1, atol=1e-6)
    rng, n = np.random.default_rng(0), 400_000
    latent = copula.latent(rng, n)
    rows, features = latent.fires_in(rng, slice(0, 6))
    assert (np.diff(rows * 6 + features) > 0).all()
    fired = np.zeros((n, 6))
    fired[rows, features] = 1
    e = rng.standard_normal((n, 3))
    dense = (e @ copula.factor.T + copula.spread * rng.standard_normal((n, 6)) > copula.threshold).astype(float)
    np.testing.assert_allclose(fired.mean(0), p, atol=0.004)
    np.testing.assert_allclose(fired.T @ fired / n, dense.T @ dense / n, atol=0.005)
    cells = latent.fires_at(rng, np.repeat(np.arange(n), 6), np.tile(np.arange(6), n)).reshape(n, 6).astype(float)
    np.testing.assert_allclose(cells.T @ cells / n, dense.T @ dense / n, atol=0.005)
    assert (np.abs(np.corrcoef(fired.T) - np.eye(6)).max() > 0.05) == (scale > 0)


@pytest.mark.parametrize("correlation", [None, CORRELATION])
def test_children_fire_with_their_parents_only_and_exclusive_ones_alone(correlation: Correlation | None) -> None:
    model = small(hierarchy=HIERARCHY, correlation=correlation)
    fired, forest = counts(model, 20), model.forest
    assert forest.exclusive.any()
    for parent in forest.count.nonzero()[0]:
        children = fired[:, forest.first[parent] : forest.first[parent] + forest.count[parent]]
        assert not (children.any(1) & ~fired[:, parent]).any()
        assert children.any()
        if forest.exclusive[parent]:
            assert int(children.sum(1).max()) == 1
        elif forest.count[parent] == 3 and parent < 4:
            assert int(children.sum(1).max()) > 1


def test_rates_are_the_configured_ones_with_and_without_a_hierarchy() -> None:
    plain = small()
    n = 40 * 1024
    p = plain.firing_probabilities
    rates = counts(plain).float().mean(0)
    # A magnitude of N(1, 0.2^2) is never below 0 here.
    assert ((rates - p) / (p * (1 - p) / n).sqrt()).abs().max() < 4.5
    how = HIERARCHY.model_copy(update={"mutually_exclusive_portion": 0.0})
    nested = small(hierarchy=how)
    assert not torch.allclose(nested.firing_probabilities, p)
    possible = nested.firing_probabilities < 1
    rates = counts(nested).float().mean(0)
    assert possible.sum() > 40
    assert ((rates - p) / (p * (1 - p) / n).sqrt())[possible & (torch.arange(64) < 16)].abs().max() < 4.5


def test_of_exclusive_siblings_that_would_fire_each_wins_as_often() -> None:
    how = Hierarchy(total_root_nodes=1, branching_factor=3, max_depth=1, mutually_exclusive_portion=1.0)
    always = FiringProbability(type="constant", probability=1.0)
    rates = counts(small(num_features=4, firing_probability=always, hierarchy=how), 30).float().mean(0)
    assert rates[0] == 1
    np.testing.assert_allclose(rates[1:], 1 / 3, atol=0.02)


def test_magnitudes_have_their_mean_and_children_scale_with_the_parent() -> None:
    model = small(hierarchy=HIERARCHY, std_firing_magnitudes=0.5, mean_firing_magnitudes=3.0)
    scaled = HIERARCHY.model_copy(update={"scale_children_by_parent": True})
    other = small(hierarchy=scaled, std_firing_magnitudes=0.5, mean_firing_magnitudes=3.0)
    for one in (model, other):
        values = torch.cat([one.block(i)[1].values for i in range(30)])
        assert (values > 0).all()
        assert float(values.mean()) == pytest.approx(3.0, rel=0.01)
    dense = torch.cat([other.block(i)[1].dense() for i in range(30)])
    child = int(other.forest.first[0])
    both = dense[dense[:, child] > 0]
    assert torch.corrcoef(both[:, [0, child]].T)[0, 1] > 0.5
    dense = torch.cat([model.block(i)[1].dense() for i in range(30)])
    both = dense[dense[:, child] > 0]
    assert torch.corrcoef(both[:, [0, child]].T)[0, 1].abs() < 0.1


def test_a_feature_of_magnitude_zero_did_not_fire() -> None:
    model = small(hierarchy=HIERARCHY, mean_firing_magnitudes=0.0, std_firing_magnitudes=1.0)
    fired = counts(model)
    # Half of the magnitudes are cut at 0, and their children go with them.
    assert float(fired[:, 0].float().mean()) == pytest.approx(float(model.firing_probabilities[0]) / 2, rel=0.1)
    children = fired[:, model.forest.first[0] : model.forest.first[0] + model.forest.count[0]]
    assert not (children.any(1) & ~fired[:, 0]).any()
