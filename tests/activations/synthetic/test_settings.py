"""Distributions over features, as SynthSAEBench names them."""

import numpy as np
import pytest
from pydantic import ValidationError

from sae_lightning.activations.synthetic.settings import (
    FiringProbability,
    Hierarchy,
    Magnitude,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_zipfian_probabilities_fall_from_the_largest_to_the_smallest_by_a_power_of_the_rank() -> None:
    p = FiringProbability(type="zipfian", exponent=0.5, max_prob=0.4, min_prob=0.001).draw(100, rng())
    assert p[0] == pytest.approx(0.4)
    assert p[-1] == pytest.approx(0.001)
    # (p - a) is proportional to r^-0.5 - 100^-0.5.
    shape = np.array([r**-0.5 - 100**-0.5 for r in range(1, 101)])
    np.testing.assert_allclose((p - 0.001) / (0.4 - 0.001), shape / shape[0])


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("kind", ["zipfian", "linear", "random", "constant"])
def test_every_type_gives_as_many_probabilities_as_features(kind: str, n: int) -> None:
    p = FiringProbability(type=kind, max_prob=0.3, min_prob=0.1, probability=0.2).draw(n, rng())  # pyright: ignore[reportArgumentType]
    assert p.shape == (n,)
    assert ((p >= 0.1 - 1e-12) & (p <= 0.3 + 1e-12)).all()


def test_magnitudes_over_features() -> None:
    np.testing.assert_allclose(Magnitude.model_validate(0.3).draw(3, rng()), [0.3, 0.3, 0.3])
    np.testing.assert_allclose(Magnitude(type="linear", start=5, end=4).draw(3, rng()), [5, 4.5, 4])
    np.testing.assert_allclose(Magnitude(type="exponential", start=4, end=1).draw(3, rng()), [4, 2, 1])
    folded = Magnitude(type="folded_normal", mean=0.5, std=0.5).draw(20_000, rng())
    assert (folded >= 0).all()
    # E|N(m, s^2)| = s sqrt(2/pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt 2).
    assert folded.mean() == pytest.approx(0.5 * (2 / np.pi) ** 0.5 * np.exp(-0.5) + 0.5 * 0.6826895, abs=0.01)
    cut = Magnitude(type="folded_normal", mean=1, std=1, min_value=0.5, max_value=1.5).draw(1000, rng())
    assert (cut.min(), cut.max()) == (0.5, 1.5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FiringProbability(min_prob=0.5, max_prob=0.3), "min_prob=0.5: must be at most max_prob=0.3"),
        (lambda: FiringProbability(max_prob=1.5), "less than or equal to 1"),
        (lambda: FiringProbability.model_validate({"expnent": 1}), "expnent"),
        (lambda: Hierarchy(branching_factor=(4, 2)), "swap the two"),
        (lambda: Hierarchy(branching_factor=1), "greater than or equal to 2"),
        (lambda: Hierarchy(mutually_exclusive_min_depth=2, mutually_exclusive_max_depth=1), "raise it"),
        (lambda: Magnitude(type="folded_normal", min_value=2, max_value=1), "must be at most max_value"),
    ],
)
def test_contradictions_are_refused(make, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make()
