"""Tensors over memory that is used again once nobody holds them."""

import sys

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Recycled:
    """Gives float32 tensors of one shape. The memory of one that is gone, with all its views, serves the next.

    A tensor made by ``torch.from_numpy`` keeps a reference to its array for as long as its storage lives: an array that
    only this pool refers to is free. At most ``most`` arrays are kept; whoever holds more gets fresh memory.
    """

    def __init__(self, shape: tuple[int, ...], most: int = 8) -> None:
        self.shape = shape
        self._most = most
        self._arrays: list[np.ndarray] = []
        # What the count is for an array that is in use nowhere: Pythons differ, so it is counted and not known.
        (self._idle,) = _references([np.empty(0)])

    def take(self) -> Float[Tensor, "..."]:
        """Return a tensor with any content."""
        for number, references in enumerate(_references(self._arrays)):
            if references == self._idle:
                return torch.from_numpy(self._arrays[number])
        array = np.empty(self.shape, np.float32)
        if len(self._arrays) < self._most:
            self._arrays.append(array)
        return torch.from_numpy(array)


def _references(arrays: list[np.ndarray]) -> list[int]:
    """Return how many references there are to each array, those of the list and of this function included."""
    counts = []
    for array in arrays:
        counts.append(sys.getrefcount(array))
    return counts
