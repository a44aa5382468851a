"""The exponent of a growth."""

import math

import numpy as np
import pytest

from experiments.benchmarks.power_law import fit


@pytest.mark.parametrize(("exponent", "scale"), [(1.0, 2.0), (0.37, 1e-6), (-1.5, 40.0), (0.0, 3.0)])
def test_a_power_law_is_found_exactly(exponent: float, scale: float) -> None:
    x = [4096, 8192, 16384, 262144]
    law = fit(x, [scale * v**exponent for v in x])
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.scale == pytest.approx(scale, rel=1e-6)
    assert law.spread == pytest.approx(0, abs=1e-6)


def test_with_noise_it_is_the_least_squares_line_and_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    x = np.array([1.0, 2, 4, 8, 16, 32])
    y = 3 * x**0.8 * np.exp(0.1 * rng.standard_normal(len(x)))
    law = fit(list(x), list(y))
    (slope, intercept), covariance = np.polyfit(np.log(x), np.log(y), 1, cov="unscaled")
    rest = np.log(y) - intercept - slope * np.log(x)
    assert law.exponent == pytest.approx(slope)
    assert law.scale == pytest.approx(np.exp(intercept))
    assert law.spread == pytest.approx(math.sqrt(covariance[0, 0] * (rest**2).sum() / (len(x) - 2)))


def test_two_points_have_an_exponent_and_no_error() -> None:
    law = fit([1, 10], [1, 100])
    assert law.exponent == pytest.approx(2)
    assert math.isnan(law.spread)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1], [1], "1 different"),
        ([2, 2], [1, 3], "1 different"),
        ([1, 2], [0, 1], "positive"),
        ([1, 2], [1], "2 x and 1 y"),
    ],
)
def test_what_has_no_exponent(x: list[float], y: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(x, y)
