"""Shares of a whole, with their exact intervals."""

from sae_lightning.core import Estimate


def share_interval(k: int, n: int) -> tuple[float, float]:
    """Return Clopper and Pearson's exact 95 % interval of a share of k in n.

    Resampling can't tell 0 of a few from 0 of many. Of nothing, n = 0, nothing is known: (0, 1). Raises ValueError
    unless 0 <= k <= n.
    """
    from scipy.special import betaincinv

    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n}: a share is of a whole")
    low = float(betaincinv(k, n - k + 1, 0.025)) if k else 0.0
    return low, float(betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0


def share(k: int, n: int) -> Estimate:
    """Return the share k / n with its exact interval; ``tokens`` counts the n. Without a value for n = 0."""
    return Estimate(k / n, *share_interval(k, n), n) if n else Estimate(None, None, None, 0)
