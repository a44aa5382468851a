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
    step = max(1, _WEIGHTS // n)
    drawn = []
    for first in range(0, draws, step):
        block = derive_seed(seed, "studies", name, first)
        drawn.append(bootstrap_weights(n, min(step, draws - first), block).numpy() @ values / n)
    value = float(values.mean())
    return Estimate(value, *(interval(value, np.concatenate(drawn), n) or (None, None)), n)
