"""Sparse Bernoulli draws, from probabilities of 0 over those that never come up to 1."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sae_lightning.activations.synthetic.bernoulli import bernoulli, independent

EVERY = np.concatenate([[0.0], np.logspace(-80, 0, 321), [5e-324, 1e-308, 0.999999]])


def drawn(p: NDArray, n_rows: int, times: int = 1, seed: int = 0) -> NDArray:
    """Return how often each feature fired, and check that cells are in the matrix and none comes twice."""
    rng, counts = np.random.default_rng(seed), np.zeros(len(p), np.int64)
    for _ in range(times):
        rows, features = independent(rng, n_rows, p)
        assert rows.dtype == features.dtype == np.int64
        assert ((rows >= 0) & (rows < n_rows) & (features >= 0) & (features < len(p))).all()
        assert len(np.unique(rows * len(p) + features)) == len(rows)
        counts += np.bincount(features, minlength=len(p))
    return counts


def surprise(counts: NDArray, p: NDArray, n: int) -> float:
    """Return the largest deviation from n draws of p in standard deviations; where n p < 1e-6, 0 is expected."""
    rare, sure = n * p < 1e-6, p == 1
    assert not counts[rare].any()
    assert (counts[sure] == n).all()
    middle = ~rare & ~sure
    # A Poisson count below about 1 has long tails: 6 is as far as any of these goes.
    return float((np.abs(counts - n * p)[middle] / np.sqrt(n * p * (1 - p) + 1)[middle]).max(initial=0))


def test_every_probability_has_its_rate() -> None:
    n, times = 1024, 60
    counts = drawn(EVERY, n, times)
    assert surprise(counts, EVERY, n * times) < 5
    # Beside naive draws of the same cells: not further off than they are.
    naive = np.random.default_rng(1).binomial(n * times, EVERY)
    middle = (n * times * EVERY > 5) & (EVERY < 1)
    z = (counts - n * times * EVERY)[middle] / np.sqrt(n * times * EVERY * (1 - EVERY))[middle]
    other = (naive - n * times * EVERY)[middle] / np.sqrt(n * times * EVERY * (1 - EVERY))[middle]
    assert 0.6 < z.std() < 1.4
    assert 0.6 < other.std() < 1.4
    assert abs(z.mean()) < 0.8


@pytest.mark.parametrize("p", [1e-300, 1e-80, 1e-72, 1e-20, 1e-18, 1e-17, 1e-12, 1e-8, 1e-5, 0.01, 0.3, 0.34, 0.9])
@pytest.mark.parametrize("n_features", [1, 3])
def test_a_probability_alone_has_its_rate(p: float, n_features: int) -> None:
    each = np.full(n_features, p)
    assert surprise(drawn(each, 1024, 40), each, 40 * 1024) < 5


def test_rows_are_alike_and_features_independent_with_rare_ones_beside_them() -> None:
    p = np.array([1e-72, 0.2, 1e-18, 0.25, 0.0, 0.21])
    rng, n = np.random.default_rng(2), 20_000
    rows, features = independent(rng, n, p)
    fired = np.zeros((n, 6))
    fired[rows, features] = 1
    assert not fired[:, [0, 2, 4]].any()
    assert np.abs(np.corrcoef(fired[:, [1, 3, 5]].T) - np.eye(3)).max() < 0.035
    halves = fired[: n // 2].mean(0) - fired[n // 2 :].mean(0)
    assert np.abs(halves).max() < 0.03


def test_many_cells_and_none() -> None:
    """2^40 cells: gaps are far above 2^31, and the sums of a few of them above 2^63 before they were cut."""
    rng = np.random.default_rng(0)
    counts = [len(independent(rng, 1 << 40, np.full(1, q))[0]) for q in [1e-10] * 20 + [1e-19] * 20]
    assert np.mean(counts[:20]) == pytest.approx(2**40 * 1e-10, rel=0.15)
    assert sum(counts[20:]) == 0
    for p in (np.zeros(3), np.zeros(0)):
        rows, features = independent(rng, 10, p)
        assert len(rows) == len(features) == 0


class Fixed(np.random.Generator):
    """float32 draws that are all one number; others are random."""

    def __init__(self, u: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.u = u

    def random(self, size: int, dtype: type = np.float64) -> NDArray:
        return np.full(size, self.u, np.float32) if dtype is np.float32 else super().random(size)


@pytest.mark.parametrize("u", [0.0, 0.25, 1 - 2.0**-24])
@pytest.mark.parametrize("share", [0.0, 1e-9, 0.3, 0.9])
def test_cells_are_drawn_more_finely_than_float32(u: float, share: float) -> None:
    step = 2.0**-24
    ones = bernoulli(Fixed(u), np.full(10_000, u + share * step))
    assert ones.mean() == pytest.approx(share, abs=0.02)
    assert not bernoulli(Fixed(u), np.full(5, u - step)).any()
    if u < 0.9:
        assert bernoulli(Fixed(u), np.full(5, u + 1.5 * step)).all()


def test_cells_have_their_rates_and_ordinary_ones_the_bits_of_float32() -> None:
    p = np.tile([0.0, 1e-9, 0.01, 0.5, 1.0], 100_000)
    ones = bernoulli(np.random.default_rng(0), p)
    assert (ones == (np.random.default_rng(0).random(len(p), dtype=np.float32) < p)).all()
    rates = ones.reshape(-1, 5).mean(0)
    assert rates[[0, 1, 4]].tolist() == [0, 0, 1]
    np.testing.assert_allclose(rates[2:4], [0.01, 0.5], atol=0.006)
