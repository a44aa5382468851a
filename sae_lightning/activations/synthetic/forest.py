"""The hierarchy as arrays: who is whose child, and how often a child must be drawn."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_lightning.activations.synthetic.settings import Hierarchy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forest:
    """n features; feature i has the children ``first[i] .. first[i] + count[i] - 1``.

    exclusive [n] bool: at most one child fires. n_roots, n_inside: features 0 .. n_roots - 1 are roots, those from
    ``n_inside`` on stand alone.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    exclusive: NDArray[np.bool_]
    n_roots: int
    n_inside: int

    @property
    def top(self) -> tuple[slice, slice]:
        """Features without a parent: roots, and those that stand alone."""
        return slice(0, self.n_roots), slice(self.n_inside, len(self.first))

    @classmethod
    def grow(cls, n: int, how: Hierarchy | None, rng: np.random.Generator) -> "Forest":
        """Number n features level by level, as ``Hierarchy`` says."""
        first, count = np.zeros(n, np.int64), np.zeros(n, np.int64)
        exclusive = np.zeros(n, np.bool_)
        if how is None:
            return cls(first, count, exclusive, 0, 0)
        least, most = how.branching_factor if isinstance(how.branching_factor, tuple) else (how.branching_factor,) * 2
        used = n_roots = min(how.total_root_nodes, n)
        level, eligible = range(n_roots), []
        for depth in range(how.max_depth):
            begin = used
            for node in level:
                first[node], count[node] = used, min(int(rng.integers(least, most + 1)), n - used)
                used += int(count[node])
            may = how.mutually_exclusive_max_depth is None or depth <= how.mutually_exclusive_max_depth
            if may and depth >= how.mutually_exclusive_min_depth:
                eligible += [node for node in level if count[node] >= 2]
            level = range(begin, used)
        chosen = rng.permutation(len(eligible))[: int(len(eligible) * how.mutually_exclusive_portion)]
        exclusive[np.array(eligible, np.int64)[chosen]] = True
        return cls(first, count, exclusive, n_roots, used)

    def compensated(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities to draw with, given that the parent fires, so that rates come out near ``p``.

        ``p_i / p_parent``, times ``1 + sum_{siblings j} p_j / p_parent`` where siblings exclude each other, at most 1:
        SynthSAEBench's first-order correction.
        """
        out = p.copy()
        for parent in np.flatnonzero(self.count):
            children = slice(self.first[parent], self.first[parent] + self.count[parent])
            given = p[children] / p[parent]
            rivals = given.sum() - given if self.exclusive[parent] else 0.0
            out[children] = given * (1 + rivals)
        over = int((out > 1).sum())
        if over:
            logger.info("hierarchy: %d of %d features cannot fire as often as asked, given their parents", over, len(p))
        return np.minimum(out, 1.0)
