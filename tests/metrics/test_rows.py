"""Sparsity, density and alignment against plain numpy, sparse and dense, cut up and merged."""

import numpy as np
import pytest
import torch

from sae_lightning.core import Features, torch_generator
from sae_lightning.metrics import Alignment, Density, Sparsity

N, D_SAE = 200, 30


def dense_values() -> torch.Tensor:
    g = torch_generator(0, "tests", "features")
    values = torch.randn(N, D_SAE, generator=g)
    keep = torch.rand(N, D_SAE, generator=g) < torch.linspace(0, 0.4, D_SAE)
    return values * keep


def as_features(values: torch.Tensor, sparse: bool) -> Features:
    if not sparse:
        return Features(values=values, indices=None, offsets=None, d_sae=D_SAE)
    # A stored zero beside the active ones: it must not count as active.
    stored = (values != 0) | (torch.arange(D_SAE) == 3)
    rows, indices = stored.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), stored.sum(-1).cumsum(0)])
    return Features(values=values[rows, indices], indices=indices, offsets=offsets, d_sae=D_SAE)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("size", [1, 33, N])
def test_sparsity_and_density_equal_numpy(sparse: bool, size: int) -> None:
    values = dense_values()
    sparsity, density = Sparsity(), Density(D_SAE)
    for part in values.split(size):
        sparsity.update(as_features(part, sparse))
        density.update(as_features(part, sparse))
    f = values.double().numpy()
    assert sparsity.compute()["l0"] == (f != 0).sum() / N
    assert sparsity.compute()["l1"] == pytest.approx(np.abs(f).sum(-1).mean(), rel=1e-12)
    share = (f != 0).mean(0)
    np.testing.assert_array_equal(density.density().numpy(), share)
    assert density.compute() == {"dead": (share == 0).mean(), "dense_share": (share > 0.1).mean()}


def test_merging_parts_is_the_whole() -> None:
    values = dense_values()
    for make in (Sparsity, lambda: Density(D_SAE)):
        whole, left, right = make(), make(), make()
        whole.update(as_features(values, True))
        left.update(as_features(values[:50], True))
        right.update(as_features(values[50:], False))
        left.merge(right)
        assert left.compute() == pytest.approx(whole.compute(), rel=1e-12)
    y = values.double()
    whole, left, right = Alignment(), Alignment(), Alignment()
    whole.update(y, y**2)
    left.update(y[:7], y[:7] ** 2)
    right.update(y[7:], y[7:] ** 2)
    left.merge(right)
    assert left.compute() == pytest.approx(whole.compute(), rel=1e-12)


def test_density_histogram_counts_every_feature_that_fired() -> None:
    density = Density(D_SAE)
    density.update(as_features(dense_values(), True))
    counts, edges = density.histogram(bins=14)
    fired = density.density()[density.counts > 0].log10().numpy()
    np.testing.assert_array_equal(counts.numpy(), np.histogram(fired, bins=edges.numpy())[0])
    assert int(counts.sum()) == int((density.counts > 0).sum())


def test_alignment_equals_numpy() -> None:
    g = torch_generator(2)
    y, y_hat = torch.randn(40, 9, generator=g), torch.randn(40, 9, generator=g)
    metric = Alignment()
    metric.update(y, y_hat)
    a, b = y.double().numpy(), y_hat.double().numpy()
    norms, hat_norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    assert metric.compute()["cosine"] == pytest.approx(((a * b).sum(1) / norms / hat_norms).mean(), rel=1e-12)
    assert metric.compute()["l2_ratio"] == pytest.approx((hat_norms / norms).mean(), rel=1e-12)


def test_alignment_of_zero_rows() -> None:
    y = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    y_hat = torch.tensor([[1.5, 2.0], [1.0, 0.0], [0.0, 0.0]])
    metric = Alignment()
    metric.update(y, y_hat)
    assert metric.compute() == {"cosine": pytest.approx(0.5), "l2_ratio": pytest.approx(0.25)}


def test_without_tokens_there_is_no_value() -> None:
    for metric in (Sparsity(), Density(3), Alignment()):
        assert all(value != value for value in metric.compute().values())
