"""The first n windows of a random order that never changes: what a budget reads of a corpus, whoever reads it."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import Permutation, TokenBatch, UserError, derive_seed
from sae_lightning.tokens.store import TokenStore
from sae_lightning.tokens.windows import Split, Windows

#: Changes when the order below does: part of every address that speaks of sample numbers.
SAMPLE_ORDER = "sample-1"


class WindowSample:
    """Windows ``perm[0], perm[1], ..., perm[n - 1]`` of ``base``; ``perm`` depends on the number of windows alone.

    No seed has a say in which text is read: runs of one budget read the same text whatever their seed (the order in
    which they read it is theirs), and a larger sample begins with the smaller one. So activations that were kept for a
    sample serve every smaller one, and grow at the end only. n: None, or more than there are, takes all.

    Stands where ``Windows`` does. ``n_tokens`` is the share of the base's tokens (exact where all are taken).
    """

    def __init__(self, base: Windows, n: int | None = None) -> None:
        if n is not None and n < 1:
            raise UserError(f"windows={n}: a sample needs at least one")
        self.base = base
        self._n = len(base) if n is None else min(n, len(base))
        self._order = Permutation(len(base), derive_seed(0, "tokens", "sample"))

    def __len__(self) -> int:
        return self._n

    @property
    def store(self) -> TokenStore:
        return self.base.store

    @property
    def split(self) -> Split:
        return self.base.split

    @property
    def context_length(self) -> int:
        return self.base.context_length

    @property
    def documents(self) -> NDArray[np.int64]:
        return self.base.documents

    @property
    def n_tokens(self) -> int:
        return self.base.n_tokens * self._n // len(self.base)

    def batch(self, window_numbers: NDArray[np.integer] | list[int]) -> TokenBatch:
        """Return these windows, by their numbers in the sample."""
        numbers = np.asarray(window_numbers, dtype=np.int64).reshape(-1)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self._n):
            raise IndexError(f"window number outside 0..{self._n - 1}")
        return self.base.batch(self._order[numbers] if numbers.size else numbers)

    def identity(self) -> str:
        """Return what names the content: the base's identity, the order's version and n."""
        parts = (self.base.identity(), SAMPLE_ORDER, self._n)
        return "sample-" + hashlib.sha256(repr(parts).encode()).hexdigest()
