"""Tensors over memory that is used again once nobody holds them."""

import math
import sys
import threading

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

_ALIGNED = 64


class Recycled:
    """Gives tensors in host memory. The memory of one that is gone, with all its views, serves the next.

    Memory that is touched for the first time costs more than most work on it: the system hands out large blocks page by
    page. A tensor made by ``torch.from_numpy`` keeps a reference to its array for as long as its storage lives: an
    array that only this pool refers to is free. One serves whatever takes at least half of it. Where none fits, the
    largest free one that is too small goes as a new one comes; at most ``most`` are kept, and whoever holds more gets
    fresh memory. Threads may share a pool. A copy of a pool is empty.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._arrays: list[np.ndarray] = []
        # What the count is for an array that is in use nowhere: Pythons differ, so it is counted and not known.
        (self._idle,) = _references([np.empty(0)])
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Shaped[Tensor, "..."]:
        """Return a tensor with any content, in order and at an address that is a multiple of 64."""
        wanted = _rounded(math.prod(shape) * dtype.itemsize + _ALIGNED)
        with self._lock:
            counts = _references(self._arrays)
            free = [number for number, references in enumerate(counts) if references == self._idle]
            sizes = {number: self._arrays[number].nbytes for number in free}
            fitting = [number for number in free if wanted <= sizes[number] <= 2 * wanted]
            if fitting:
                return _tensor(self._arrays[min(fitting, key=sizes.__getitem__)], shape, dtype)
            small = [number for number in free if sizes[number] < wanted] or free[: len(self._arrays) >= self._most]
            if small:
                del self._arrays[max(small, key=sizes.__getitem__)]
            array = np.empty(wanted, np.uint8)
            if len(self._arrays) < self._most:
                self._arrays.append(array)
            return _tensor(array, shape, dtype)

    def __deepcopy__(self, memo: dict[int, object]) -> "Recycled":
        return Recycled(self._most)

    def __reduce__(self) -> tuple[type["Recycled"], tuple[int]]:
        return Recycled, (self._most,)


def _rounded(n_bytes: int) -> int:
    """Return the next of eight sizes between powers of two: what grows a little now and then still fits."""
    step = max(_ALIGNED, 1 << max(0, n_bytes.bit_length() - 4))
    return -(-n_bytes // step) * step


def _tensor(array: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    first = -array.ctypes.data % _ALIGNED
    n_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(array)[first : first + n_bytes].view(dtype).view(shape)


def _references(arrays: list[np.ndarray]) -> list[int]:
    """Return how many references there are to each array, those of the list and of this function included."""
    counts = []
    for array in arrays:
        counts.append(sys.getrefcount(array))
    return counts
