"""Shares and their exact intervals."""

import pytest
from scipy.stats import binom, binomtest

from sae_lightning.core import Estimate
from sae_lightning.studies.shares import share, share_interval


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (1, 7), (19, 20), (400, 1000)])
def test_an_interval_is_clopper_and_pearsons(k: int, n: int) -> None:
    low, high = share_interval(k, n)
    theirs = binomtest(k, n).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert k == 0 or binom.sf(k - 1, n, low) == pytest.approx(0.025)
    assert k == n or binom.cdf(k, n, high) == pytest.approx(0.025)


def test_of_nothing_nothing_is_known() -> None:
    assert share_interval(0, 0) == (0.0, 1.0)
    assert share(0, 0) == Estimate(None, None, None, 0)
    assert share(3, 4).value == 0.75
    with pytest.raises(ValueError, match="a whole"):
        share_interval(2, 1)
