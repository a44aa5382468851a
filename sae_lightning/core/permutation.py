"""A seeded permutation of 0..n-1 that is computed, not stored: any position of any epoch in constant memory."""

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core.seeds import derive_seed

_ROUNDS = 6


class Permutation:
    """A pseudo-random bijection of ``range(n)``: ``perm[i]`` for an integer or an integer array.

    A Feistel network over the smallest even-width binary domain that holds ``n``, with cycle walking for the values
    that fall outside. Needs no memory that grows with ``n``, so an epoch over billions of windows can be entered at
    any place; that is what makes resuming exact and cheap. Not cryptographic.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002).
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs at least one element, got n={n}")
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._half = np.uint64((bits + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(derive_seed(seed, "feistel", r)) for r in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.n

    def _encrypt(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            left, right = right, left ^ (mixed & self._mask)
        return (left << self._half) | right

    def __getitem__(self, index: int | NDArray[np.integer]) -> NDArray[np.int64]:
        positions = np.atleast_1d(np.asarray(index))
        if positions.size and (positions.min() < 0 or positions.max() >= self.n):
            raise IndexError(f"position outside 0..{self.n - 1}")
        with np.errstate(over="ignore"):
            out = self._encrypt(positions.astype(np.uint64))
            outside = out >= np.uint64(self.n)
            while outside.any():
                out[outside] = self._encrypt(out[outside])
                outside = out >= np.uint64(self.n)
        return out.astype(np.int64)
