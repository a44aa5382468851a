"""Intervals by resampling windows: tokens of one window resemble each other, windows are drawn independently."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core.seeds import derive_seed

LEVEL = 0.95
#: Of fewer windows no interval is given: five of one sign, which chance does once in sixteen times, would exclude 0.
FEWEST = 8


def bootstrap_weights(n: int, draws: int, seed: int) -> Float[Tensor, "draws n"]:
    """Return how often each of n windows is in each of ``draws`` samples of n drawn with replacement, float64.

    The same n and seed give the same samples, so what two SAEs score on the same windows can be compared draw by draw.
    """
    rng = np.random.default_rng(derive_seed(seed, "metrics", "bootstrap", n))
    return torch.from_numpy(rng.multinomial(n, np.full(n, 1.0 / n), size=draws).astype(np.float64))


def tails(n: int, p: int = 1, level: float = LEVEL) -> float:
    """Return the share of draws to leave out below and above for an interval of ``level`` from n units.

    The plain percentile interval is too narrow for small n: it lacks the factor ``n / (n - p)`` in the variance and
    Student's quantile in place of the normal one. So the percentiles ``Phi(-+ sqrt(n / (n - p)) t)``, t of n - p
    degrees of freedom, take the place of 2.5 and 97.5 % (Hesterberg 2015, What Teachers Should Know About the
    Bootstrap, section 5.3). p: fitted parameters, 1 for a mean.
    """
    from scipy.special import ndtr, stdtrit

    t = float(stdtrit(n - p, 0.5 + level / 2))
    return float(ndtr(-np.sqrt(n / (n - p)) * t))


def interval(
    estimate: float, draws: NDArray[np.float64], n: int, *, recentre: bool = False, level: float = LEVEL
) -> tuple[float, float] | None:
    """Return (low, high): the expanded percentile interval (see ``tails``) of bootstrap draws over n windows.

    recentre: move the draws so that their median is the estimate. For what a resample sees less of than the sample
        did, as the share of features that never fire: its draws lie all on one side of the estimate.
    None where there is none to give: fewer than ``FEWEST`` windows, or an undefined value in more than one draw of ten.
    """
    defined = draws[np.isfinite(draws)]
    if n < FEWEST or not np.isfinite(estimate) or len(defined) < 0.9 * len(draws) or not len(defined):
        return None
    if recentre:
        defined = defined + (estimate - np.median(defined))
    tail = tails(n, level=level)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(min(low, estimate)), float(max(high, estimate))
