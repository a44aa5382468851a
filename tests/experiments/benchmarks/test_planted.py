"""The rows that are measured on, and the thresholds that leave k features active."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks.planted import POOL, endless, planted_pool, threshold_for


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    first, again, other = planted_pool(16, 8), planted_pool(16, 8), planted_pool(16, 8, seed=1)
    assert len(first) == POOL
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (8, 16)
    assert first[0].dtype == torch.float32


def test_the_rows_have_planted_directions() -> None:
    """2,048 rows of width 512 would be of full rank if they were noise: 256 directions hold nearly all of them."""
    values = torch.linalg.svdvals(planted_pool(512, 2048)[0]).square()
    assert values[:256].sum() / values.sum() > 0.9


def test_the_pool_comes_again_and_again() -> None:
    pool = planted_pool(4, 2)
    seen = [batch for batch, _ in zip(endless(pool), range(2 * POOL + 1), strict=False)]
    assert all(torch.equal(batch, pool[number % POOL]) for number, batch in enumerate(seen))


@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 10_000), st.data())
@settings(deadline=None, max_examples=50)
def test_k_features_a_row_are_above_the_threshold(n: int, d_sae: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, d_sae - 1))
    pre_acts = torch.randn(n, d_sae, generator=torch.Generator().manual_seed(seed)).double()
    assert int((pre_acts > threshold_for(pre_acts, k)).sum()) == n * k


@pytest.mark.parametrize("k", [0, 5, 6])
def test_k_must_leave_some_out(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and"):
        threshold_for(torch.randn(3, 5), k)
