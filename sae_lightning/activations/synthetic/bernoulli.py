"""Sparse Bernoulli draws: work that follows the ones, not the cells."""

import numpy as np
from numpy.typing import NDArray

# Probabilities below 2^-64 are one group: hardly any cell is a candidate there, however many cells there are.
_RAREST = 64
# float32 draws are multiples of it.
_STEP = 2.0**-24


def independent(rng: np.random.Generator, n_rows: int, p: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Return (row, feature) of the ones of an [n_rows, n] matrix of independent Bernoulli(p_feature), 0 <= p <= 1.

    Features of similar p are one string of cells; geometric gaps at the largest p of the group lead from candidate to
    candidate, and a candidate stays with probability p / largest. Cost follows what fires, not the matrix.
    """
    rows, features = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    with np.errstate(divide="ignore"):
        group = np.floor(np.minimum(-np.log2(p), _RAREST)).astype(np.int64)
    for number in np.unique(group):
        members = np.flatnonzero(group == number)
        largest = float(p[members].max())
        cells = _bernoulli_cells(rng, n_rows * len(members), largest)
        feature = members[cells % len(members)]
        stays = rng.random(len(cells)) * largest < p[feature]
        rows.append(cells[stays] // len(members))
        features.append(feature[stays])
    return np.concatenate(rows), np.concatenate(features)


def bernoulli(rng: np.random.Generator, p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of ``len(p)`` cells are ones, Bernoulli(p) each, 0 <= p <= 1."""
    u = rng.random(len(p), dtype=np.float32)
    ones = u < p
    # A draw u stands for u to u + 2^-24: where p lies in between, a second draw says on which side.
    edge = np.flatnonzero((u <= p) & (p < u + _STEP))
    ones[edge] = rng.random(len(edge)) < (p[edge] - u[edge]) / _STEP
    return ones


def _bernoulli_cells(rng: np.random.Generator, n: int, p: float) -> NDArray[np.int64]:
    """Return the numbers of the cells of n that a Bernoulli(p) each makes 1, ascending."""
    if p == 0:
        return np.empty(0, np.int64)
    parts, last = [], -1
    while last < n:
        expected = (n - last) * p
        # Gaps at a small p are up to 2^63 - 1. One of n + 1 leads past the end from anywhere, and sums don't overflow.
        step = np.minimum(rng.geometric(p, int(expected + 4 * np.sqrt(expected) + 8)), n + 1)
        parts.append(last + np.cumsum(step))
        last = int(parts[-1][-1])
    cells = np.concatenate(parts)
    return cells[: np.searchsorted(cells, n)]
