"""The exponent of a growth: a straight line through logarithms."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class PowerLaw(NamedTuple):
    """``y = scale x^exponent``. spread: the standard error of the exponent, nan for two points."""

    exponent: float
    scale: float
    spread: float


def fit(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Return the least-squares line of ln y on ln x. ValueError below two different x or for values not above 0."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} x and {len(y)} y: must be as many")
    if len(set(x)) < 2:
        raise ValueError(f"x has {len(set(x))} different values; a line needs two")
    if min(*x, *y) <= 0:
        raise ValueError("x and y must be positive")
    log_x, log_y = [math.log(v) for v in x], [math.log(v) for v in y]
    exponent, intercept = statistics.linear_regression(log_x, log_y)
    rest = [b - intercept - exponent * a for a, b in zip(log_x, log_y, strict=True)]
    mean = statistics.fmean(log_x)
    freedom, width = len(x) - 2, sum((a - mean) ** 2 for a in log_x)
    spread = math.sqrt(sum(r * r for r in rest) / freedom / width) if freedom else math.nan
    return PowerLaw(exponent, math.exp(intercept), spread)
