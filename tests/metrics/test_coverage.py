"""The 95 % intervals hold what they claim: of samples from a known population, 92 to 98 % cover the population's value.

The population is unkind: tokens of one window resemble each other (so tokens drawn one by one would give intervals far
too narrow), windows differ by a heavy-tailed factor, and ratios have noise above and below.
"""

import numpy as np
import pytest
import torch

from experiments.interval_coverage.population import METRICS, POPULATION, Population, coverage
from sae_lightning.core import derive_seed

SAMPLE, RESAMPLES = 256, 500


@pytest.fixture(scope="module")
def population() -> Population:
    return Population()


@pytest.mark.parametrize("name", METRICS)
def test_intervals_cover(population: Population, name: str) -> None:
    states = population.of(METRICS[name])
    shares = coverage(METRICS[name](population, 0), states, SAMPLE, RESAMPLES)
    wrong = {figure: share for figure, share in shares.items() if not 0.92 <= share <= 0.98}
    assert not wrong, f"coverage {wrong}"


def test_tokens_drawn_one_by_one_would_cover_far_less(population: Population) -> None:
    """The control: the normal interval of as many independent tokens, on the same samples, misses every fifth time."""
    truth = float(population.clean.mean())
    rng = np.random.default_rng(derive_seed(1, "tests", "coverage"))
    hits = 0
    for _ in range(RESAMPLES):
        tokens = population.clean[torch.from_numpy(rng.integers(0, POPULATION, SAMPLE))].flatten()
        hits += abs(float(tokens.mean()) - truth) < 1.96 * float(tokens.std()) / len(tokens) ** 0.5
    assert hits / RESAMPLES < 0.85
