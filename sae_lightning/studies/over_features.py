"""Means over features, with their intervals."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.core import Estimate, derive_seed
from sae_lightning.metrics import bootstrap_weights, interval

# Draws of one block times features: 64 MB of weights.
_WEIGHTS = 1 << 23


def mean_estimate(values: Float[NDArray, "m"], name: str, seed: int, draws: int) -> Estimate:
    """Return the mean of a number over features, with the interval of a bootstrap over them.

    name: of the study, whose draws are its own. ``tokens`` of the estimate counts features.
    """
    n = len(values)
    if not n:
        return Estimate(None, None, None, 0)
    value = float(values.mean())
    return Estimate(value, *(interval(value, _means(values, name, seed, draws), n) or (None, None)), n)


def difference_estimate(a: Float[NDArray, "m"], b: Float[NDArray, "k"], name: str, seed: int, draws: int) -> Estimate:
    """Return mean(a) - mean(b) of two groups that have no member in common, each drawn anew for the interval.

    ``tokens`` counts the members of the smaller group, which decides how wide the interval is.
    """
    n = min(len(a), len(b))
    if not n:
        return Estimate(None, None, None, 0)
    value = float(a.mean() - b.mean())
    drawn = _means(a, name, seed, draws) - _means(b, f"{name}/other", seed, draws)
    return Estimate(value, *(interval(value, drawn, n) or (None, None)), n)


def _means(values: Float[NDArray, "m"], name: str, seed: int, draws: int) -> Float[NDArray, "draws"]:
    """Return the means of so many samples drawn with replacement."""
    n = len(values)
    step = max(1, _WEIGHTS // n)
    drawn = []
    for first in range(0, draws, step):
        block = derive_seed(seed, "studies", name, first)
        drawn.append(bootstrap_weights(n, min(step, draws - first), block).numpy() @ values / n)
    return np.concatenate(drawn)
