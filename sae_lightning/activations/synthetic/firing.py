"""Which features fire on a block of rows, and how strongly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_lightning.activations.synthetic.bernoulli import bernoulli, independent
from sae_lightning.activations.synthetic.copula import Copula, Latent
from sae_lightning.activations.synthetic.forest import Forest

# Row, feature and value of each firing.
Firings = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True)
class FiringModel:
    """Draws firings: parents first, and children only where their parent fired.

    p: probability of each feature, given that its parent fires (of its own for one without). mean, std: of the
    magnitude ``max(0, N(mean, std^2))``; a feature of magnitude 0 did not fire, and its children do not either.
    """

    p: NDArray[np.float64]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    forest: Forest
    scale_children: bool = False
    copula: Copula | None = None

    def draw(self, seed: int, n_rows: int) -> Firings:
        """Return the firings of a block, in order of row and feature: a pure function of seed and size."""
        rng = np.random.default_rng(seed)
        latent = None if self.copula is None else self.copula.latent(rng, n_rows)
        found = [self._top(rng, n_rows, latent)]
        while len(found[-1][0]) and self.forest.count[found[-1][1]].any():
            found.append(self._children(rng, found[-1], latent))
        rows, features, values = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(rows * len(self.p) + features)
        return rows[order], features[order], values[order]

    def _top(self, rng: np.random.Generator, n_rows: int, latent: Latent | None) -> Firings:
        rows, features = [], []
        for part in self.forest.top:
            if latent is not None:
                row, feature = latent.fires_in(rng, part)
            elif part.start < part.stop:
                row, feature = independent(rng, n_rows, self.p[part])
            else:
                continue
            rows.append(row)
            features.append(feature + part.start)
        row, feature = np.concatenate(rows), np.concatenate(features)
        value = self._magnitudes(rng, feature)
        there = value > 0
        return row[there], feature[there], value[there]

    def _children(self, rng: np.random.Generator, parents: Firings, latent: Latent | None) -> Firings:
        rows, features, values = parents
        count = self.forest.count[features]
        # One cell for each child of each firing parent; ``parent`` is the firing it hangs on.
        parent = np.repeat(np.arange(len(rows)), count)
        within = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
        child, row = self.forest.first[features][parent] + within, rows[parent]
        fires = bernoulli(rng, self.p[child]) if latent is None else latent.fires_at(rng, row, child)
        parent, child, row = parent[fires], child[fires], row[fires]
        value = self._magnitudes(rng, child)
        if self.scale_children:
            value *= values[parent] / self.mean[features[parent]]
        there = (value > 0) & self._chosen(rng, parent, features, value > 0)
        return row[there], child[there], value[there]

    def _chosen(self, rng: np.random.Generator, parent: NDArray, features: NDArray, active: NDArray) -> NDArray:
        """Return which children stay: where siblings exclude each other, one of the active ones at random."""
        if not len(parent):
            return active
        lot = np.where(active, rng.random(len(parent)), -1.0)
        starts = np.flatnonzero(np.diff(parent, prepend=-1))
        largest = np.repeat(np.maximum.reduceat(lot, starts), np.diff(starts, append=len(parent)))
        return ~self.forest.exclusive[features[parent]] | (lot == largest)

    def _magnitudes(self, rng: np.random.Generator, feature: NDArray) -> NDArray[np.float32]:
        values = self.mean[feature] + self.std[feature] * rng.standard_normal(len(feature), dtype=np.float32)
        return values.astype(np.float32, copy=False)
