"""How far a first-order estimate of features' effects agrees with the exact ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sae_lightning.core import derive_seed
from sae_lightning.metrics import interval
from sae_lightning.studies.shares import share
from sae_lightning.studies.study import Estimate


def agreement(
    first: Sequence[float], exact: Sequence[float], name: str, seed: int = 0, draws: int = 1000
) -> dict[str, Estimate]:
    """Return ``sign_agreement`` and ``rank_correlation`` of two effects of the same features.

    The first: the share with the same sign, with Clopper and Pearson's interval; an effect of exactly 0 agrees with 0
    alone. The second: Spearman's, with a bootstrap over features (none for fewer than 8); no value where one of both
    has no order. Intervals say what other features of this prompt would give, not other prompts. ``tokens`` counts
    features.
    """
    from scipy.stats import rankdata

    a, b = np.asarray(first, np.float64), np.asarray(exact, np.float64)
    n = len(a)
    rng = np.random.default_rng(derive_seed(seed, "studies", name))
    drawn = np.full(draws, np.nan)
    if n > 1:
        for i, chosen in enumerate(rng.integers(0, n, (draws, n))):
            drawn[i] = _correlation(rankdata(a[chosen]), rankdata(b[chosen]))
    value = _correlation(rankdata(a), rankdata(b)) if n > 1 else np.nan
    if np.isfinite(value):
        correlation = Estimate(value, *(interval(value, drawn, n) or (None, None)), n)
    else:
        correlation = Estimate(None, None, None, n)
    return {
        "sign_agreement": share(int((np.sign(a) == np.sign(b)).sum()), n),
        "rank_correlation": correlation,
    }


def _correlation(a: Float[NDArray, "m"], b: Float[NDArray, "m"]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else float("nan")
