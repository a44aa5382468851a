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
        # References to an array that is in use nowhere: the list's, the loop's and getrefcount's own argument.
        self._idle = 3

    def take(self) -> Float[Tensor, "..."]:
        """Return a tensor with any content."""
        for array in self._arrays:
            if sys.getrefcount(array) == self._idle:
                return torch.from_numpy(array)
        array = np.empty(self.shape, np.float32)
        if len(self._arrays) < self._most:
            self._arrays.append(array)
        return torch.from_numpy(array)
