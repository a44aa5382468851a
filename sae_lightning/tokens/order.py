"""The order of an endless training stream: every window once an epoch, each epoch in its own order."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import Permutation, derive_seed


class EpochOrder:
    """``at(p) = perm_e[p mod n]`` with ``e = p // n`` and ``perm_e = Permutation(n, seed / windows / e)``.

    A pure function of the position, so a resumed run needs its position and nothing else.
    """

    def __init__(self, n_windows: int, seed: int) -> None:
        if n_windows < 1:
            raise ValueError(f"an order needs at least one window, got n_windows={n_windows}")
        self.n_windows = n_windows
        self.seed = seed
        self._permutation = lru_cache(maxsize=4)(self._make)

    def _make(self, epoch: int) -> Permutation:
        return Permutation(self.n_windows, derive_seed(self.seed, "windows", epoch))

    def at(self, position: int) -> int:
        """Return the window number at one position of the stream (0, 1, 2, ... without end)."""
        return int(self.take(np.array([position]))[0])

    def take(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the window numbers at these positions."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise IndexError("positions of a stream begin at 0")
        epochs, places = np.divmod(positions, self.n_windows)
        out = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._permutation(int(epoch))[places[here]]
        return out
