"""The stored-nothing permutation: a bijection, the same asked one by one or at once, and no visible order."""

import numpy as np
import pytest

from sae_lightning.core import Permutation

SIZES = [*range(1, 70), 100, 127, 128, 129, 255, 256, 257, 1000, 4095, 4096, 4097, 65537, 100_003]


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_every_position_has_one_value_and_every_value_one_position(seed: int) -> None:
    for n in SIZES:
        values = Permutation(n, seed)[np.arange(n)]
        assert values.dtype == np.int64
        assert np.array_equal(np.sort(values), np.arange(n)), n


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000])
def test_one_by_one_and_at_once_agree(n: int) -> None:
    permutation = Permutation(n, seed=3)
    assert len(permutation) == n
    at_once = permutation[np.arange(n)]
    one_by_one = np.concatenate([permutation[i] for i in range(n)])
    assert np.array_equal(at_once, one_by_one)
    backwards = permutation[np.arange(n)[::-1]]
    assert np.array_equal(backwards[::-1], at_once)


def test_seeds_give_different_orders_and_one_seed_always_the_same() -> None:
    positions = np.arange(500)
    orders = [Permutation(500, seed)[positions] for seed in range(20)]
    assert len({order.tobytes() for order in orders}) == 20
    assert np.array_equal(orders[7], Permutation(500, 7)[positions])
    # Unrelated orders agree in about one place of each pair; a seed that hardly mattered would agree in many.
    agreement = [int((a == b).sum()) for i, a in enumerate(orders) for b in orders[:i]]
    assert max(agreement) < 12
    assert 0.5 < np.mean(agreement) < 2.0


def test_a_place_far_inside_a_huge_domain_costs_nothing() -> None:
    n = 10**12 + 39
    permutation = Permutation(n, seed=0)
    places = np.array([0, 1, n // 2, n - 1])
    values = permutation[places]
    assert len(set(values.tolist())) == 4
    assert ((values >= 0) & (values < n)).all()
    assert np.array_equal(permutation[n - 1], values[3:])


def test_one_element() -> None:
    assert Permutation(1, seed=9)[0].tolist() == [0]


@pytest.mark.parametrize("n", [0, -1])
def test_no_elements_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}"):
        Permutation(n, seed=0)


@pytest.mark.parametrize("index", [-1, 10, np.array([0, 10]), np.array([3, -1])])
def test_positions_outside_are_refused(index: int | np.ndarray) -> None:
    with pytest.raises(IndexError, match=r"0\.\.9"):
        Permutation(10, seed=0)[index]


def test_nothing_asked_nothing_given() -> None:
    assert Permutation(10, seed=0)[np.zeros(0, dtype=np.int64)].shape == (0,)


def test_values_spread_evenly_over_seeds_and_neighbours_do_not_stay_together() -> None:
    # chi-square of (position, value) cells over 2,000 seeds: 64 cells of 250 expected, 49 degrees of freedom.
    n, seeds = 8, 2000
    counts = np.zeros((n, n))
    for seed in range(seeds):
        counts[np.arange(n), Permutation(n, seed)[np.arange(n)]] += 1
    expected = seeds / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 15 < chi_square < 110

    values = Permutation(100_000, seed=1)[np.arange(100_000)].astype(float)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), values)[0, 1]) < 0.02
    # An early stretch is a fair sample of the whole.
    first = values[:1000] / 100_000
    assert abs(first.mean() - 0.5) < 0.04
    assert abs(first.std() - 1 / np.sqrt(12)) < 0.03
