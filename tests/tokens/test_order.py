"""The order of windows: every epoch a full pass, another order each time, any place reachable."""

import numpy as np
import pytest

from sae_lightning.tokens import EpochOrder


@pytest.mark.parametrize("n", [1, 2, 37, 1000])
def test_each_epoch_has_every_window_once(n: int) -> None:
    order = EpochOrder(n, seed=3)
    for epoch in range(3):
        assert sorted(order.take(np.arange(epoch * n, (epoch + 1) * n))) == list(range(n))


def test_epochs_and_seeds_differ() -> None:
    first, second = (EpochOrder(1000, seed=0).take(np.arange(1000) + shift) for shift in (0, 1000))
    other = EpochOrder(1000, seed=1).take(np.arange(1000))
    for a, b in ((first, second), (first, other)):
        # Two random orders of 1,000 agree in one place on average.
        assert (a == b).sum() < 10
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.15


def test_any_position_is_a_pure_function() -> None:
    order = EpochOrder(13, seed=5)
    ahead = [order.at(position) for position in range(60)]
    fresh = EpochOrder(13, seed=5)
    assert [fresh.at(position) for position in reversed(range(60))] == ahead[::-1]
    assert EpochOrder(10**12, seed=5).at(10**13 + 7) < 10**12


def test_positions_begin_at_0() -> None:
    with pytest.raises(IndexError):
        EpochOrder(3, seed=0).at(-1)
