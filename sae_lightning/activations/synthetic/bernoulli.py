"""Sparse Bernoulli draws: work that follows the ones, not the cells."""

import numpy as np
from numpy.typing import NDArray


def independent(rng: np.random.Generator, n_rows: int, p: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Return (row, feature) of the ones of an [n_rows, n] matrix of independent Bernoulli(p_feature).

    Features of similar p are one string of cells; geometric gaps at the largest p of the group lead from candidate to
    candidate, and a candidate stays with probability p / largest. Cost follows what fires, not the matrix.
    """
    rows, features = [], []
    group = np.floor(-np.log2(p)).astype(np.int64)
    for number in np.unique(group):
        members = np.flatnonzero(group == number)
        largest = float(p[members].max())
        cells = _bernoulli_cells(rng, n_rows * len(members), largest)
        feature = members[cells % len(members)]
        stays = rng.random(len(cells)) * largest < p[feature]
        rows.append(cells[stays] // len(members))
        features.append(feature[stays])
    return np.concatenate(rows), np.concatenate(features)


def _bernoulli_cells(rng: np.random.Generator, n: int, p: float) -> NDArray[np.int64]:
    """Return the numbers of the cells of n that a Bernoulli(p) each makes 1, ascending."""
    parts, last = [], -1
    while last < n:
        expected = (n - last) * p
        step = rng.geometric(p, int(expected + 4 * np.sqrt(expected) + 8))
        parts.append(last + np.cumsum(step))
        last = int(parts[-1][-1])
    cells = np.concatenate(parts)
    return cells[: np.searchsorted(cells, n)]
