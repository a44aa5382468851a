"""Intervals by resampling windows: tokens of one window resemble each other, windows are drawn independently."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core.seeds import derive_seed
from sae_lightning.metrics.running import RunningMetric

LEVEL = 0.95
_GROUPS = 1024
# Numbers in one chunk of pooled states: 256 MB in float64.
POOLED = 1 << 25
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


def linearised(
    metric: RunningMetric, states: Mapping[str, Tensor], weights: Float[Tensor, "B W"]
) -> dict[str, Float[Tensor, "B"]]:
    """Return draws made linear at the estimate: ``theta + sum_w (weights[b, w] - 1) (theta - theta_without_w)``.

    For shares of features that what a resample leaves out changes most, as those that never fire: a resample sees
    fewer different windows than there are, so its own figures lie all on one side of the estimate. These have the
    spread of the jackknife, which is never too small (Efron and Stein 1981), and stay within 0 and 1. Of more than 1024
    windows, neighbours are left out together.
    """
    n = weights.shape[1]
    group = torch.arange(n) * min(n, _GROUPS) // n
    members = torch.nn.functional.one_hot(group).to(weights)  # [W, G]
    whole = metric.values(metric.pool(states, weights.new_ones(1, n)))
    size = max(1, sum(value[0].numel() for value in states.values()))
    without = [metric.values(metric.pool(states, 1 - part.T)) for part in members.split(max(1, POOLED // size), dim=1)]
    moved = (weights - 1) @ (members / members.sum(0).sqrt())  # of variance 1, for groups as for single windows
    factor = (members.shape[1] - 1) / members.shape[1]
    out = {}
    for name, value in whole.items():
        change = value - torch.cat([part[name] for part in without])
        out[name] = (value + factor * moved @ change).clamp(0.0, 1.0)
    return out


def interval(
    estimate: float, draws: NDArray[np.float64], n: int, *, level: float = LEVEL
) -> tuple[float, float] | None:
    """Return (low, high): the expanded percentile interval (see ``tails``) of bootstrap draws over n windows.

    None where there is none to give: fewer than ``FEWEST`` windows, or an undefined value in more than one draw of ten.
    """
    defined = draws[np.isfinite(draws)]
    if n < FEWEST or not np.isfinite(estimate) or len(defined) < 0.9 * len(draws) or not len(defined):
        return None
    tail = tails(n, level=level)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(min(low, estimate)), float(max(high, estimate))
