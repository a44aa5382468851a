"""Bootstrap intervals of a fitted law: resample the runs, fit again, and widen what few runs make too narrow."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core.seeds import derive_seed
from sae_lightning.metrics.bootstrap import tails
from sae_lightning.studies.scaling.solve import Array, PowerSum, solve

Select = Callable[[NDArray[np.intp]], NDArray[np.intp]]
_TRIES = 40


def resample(law: PowerSum, draws: int, seed: int, select: Select | None = None) -> Array:
    """Return weights [draws, n]: how often each run is in a sample of n runs drawn with replacement.

    select: given the runs of a sample, those that the law is fitted to (a frontier, recomputed for each sample).

    A sample from which the parameters cannot be told apart (fewer different runs than parameters, one width only) is
    drawn again; fewer than ``draws`` come back where such samples are nearly all.
    """
    rng = np.random.default_rng(derive_seed(seed, "scaling", "bootstrap"))
    design = np.concatenate(law.terms, axis=1)
    found: list[Array] = []
    for _ in range(_TRIES * draws):
        counts = np.bincount(rng.integers(0, law.n, law.n), minlength=law.n).astype(np.float64)
        if select is not None:
            kept = np.zeros(law.n)
            chosen = select(np.flatnonzero(counts))
            kept[chosen] = counts[chosen]
            counts = kept
        used = counts > 0
        if used.sum() >= law.p and np.linalg.matrix_rank(design[used]) == np.linalg.matrix_rank(design):
            found.append(counts)
            if len(found) == draws:
                break
    return np.array(found).reshape(-1, law.n)


def draws_of(law: PowerSum, y: Array, theta: Array, scale: float, weights: Array) -> Array:
    """Return the parameters [draws, p] fitted to each resample, starting from the fit to all runs."""
    start = np.repeat(theta[None], len(weights), axis=0)
    return solve(law, np.broadcast_to(y, weights.shape), weights, start, scale)[0]


def interval(draws: Array, law: PowerSum, theta: Array, y: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Return the interval (lower [p], upper [p]) of the fit ``theta`` to ``y`` [n]: the hull of two.

    1. The expanded percentile interval of the bootstrap draws (see ``metrics.bootstrap.tails``).
    2. ``theta -+ t sqrt(diag (J'J)^-1 RSS / (n - p))``, the interval of the law made linear at the fit. Bootstrap draws
       of four or five points cannot reach far enough, and one wild run makes the percentiles miss on one side.
    """
    from scipy.special import stdtrit

    n, p = law.n, law.p
    t = float(stdtrit(n - p, 0.5 + level / 2))
    tail = tails(n, p, level)
    lower, upper = np.quantile(draws, [tail, 1 - tail], axis=0)
    # Solved in coordinates that are orthonormal: in the law's own the matrix is all but singular.
    orthonormal, back = law.orthonormal()
    jacobian = orthonormal.jacobian(np.linalg.solve(back, theta))
    covariance = back @ np.linalg.pinv(jacobian.T @ jacobian, hermitian=True) @ back.T
    reach = t * np.sqrt(np.diag(covariance) * ((law.predict(theta) - y) ** 2).sum() / (n - p))
    return np.minimum(lower, theta - reach), np.maximum(upper, theta + reach)
