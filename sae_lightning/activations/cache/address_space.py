"""Many files as one array: their data mapped side by side into one range of addresses."""

import ctypes
import mmap
import os
import weakref
from math import lcm
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sae_lightning.activations.cache.container import PAGE, checksum, read_header

_PROT_NONE, _PROT_READ = 0, 1
_SHARED, _PRIVATE, _FIXED = 0x01, 0x02, 0x10
_WILL_NEED, _DONT_NEED = 3, 4
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class AddressSpace:
    """Rows of ``row_bytes`` in several files, addressable as one array: a gather over all of them is one ``take``.

    File i holds ``rows[i]`` rows after its header. Row r of it is item ``first[i] + r`` of ``take``; between the files
    are gaps, since a file begins at a page. Nothing is mapped until ``map`` is called for a file, and a file that took
    the place of another is mapped in its stead. Addresses cost nothing; pages are the machine's page cache, shared by
    its processes, and count for this one while it has touched them: ``release`` gives them back.

    numpy's and Python's own maps are one object a file, and picking rows from hundreds of them takes longer than the
    rows do.
    """

    def __init__(self, row_bytes: int, rows: list[int]) -> None:
        self.row_bytes = row_bytes
        self._rows = rows
        step = lcm(PAGE, row_bytes)
        sizes = [-(-n * row_bytes // step) * step for n in rows]
        begins = np.cumsum([0, *sizes])
        self.first: NDArray[np.int64] = begins // row_bytes
        self._size = max(int(begins[-1]), step)
        self._base = _mmap(None, self._size, _PROT_NONE, _PRIVATE | mmap.MAP_ANON, -1, 0)
        self._bytes = np.frombuffer(memoryview((ctypes.c_ubyte * self._size).from_address(self._base)), np.uint8)
        self._bytes.flags.writeable = False
        self._items = self._bytes.view(f"V{row_bytes}")
        # No view leaves this object, so none can outlive the map.
        weakref.finalize(self, _libc.munmap, self._base, self._size)

    def map(self, number: int, path: Path) -> None:
        """Map a file's data. Raises OSError or ValueError when it is not as long as it must be."""
        with open(path, "rb") as file:
            begin, _ = read_header(file.read(PAGE))
            n_bytes = self._rows[number] * self.row_bytes
            size = os.fstat(file.fileno()).st_size
            if begin % PAGE or size != begin + n_bytes:
                raise ValueError(f"{path.name} has {size} bytes, must have {begin + n_bytes}")
            if n_bytes:
                at = self._base + int(self.first[number]) * self.row_bytes
                _mmap(at, n_bytes, _PROT_READ, _SHARED | _FIXED, file.fileno(), begin)

    def take(self, items: NDArray[np.int64], out: NDArray[np.void]) -> None:
        """Copy rows into ``out`` [n] of ``V{row_bytes}``; the files that hold them must be mapped."""
        # "raise" would go through a copy of ``out``.
        np.take(self._items, items, out=out, mode="clip")

    def checksum(self, first: int, last: int) -> int:
        """Return the checksum of items ``first`` to ``last - 1``."""
        return checksum(self._bytes[first * self.row_bytes : last * self.row_bytes].data)

    def will_need(self, first: int, last: int) -> None:
        """Let the kernel read these items from the disk into the page cache, without waiting for it."""
        begin = first * self.row_bytes // PAGE * PAGE
        _libc.madvise(self._base + begin, last * self.row_bytes - begin, _WILL_NEED)

    def release(self) -> None:
        """Take the pages out of this process; they stay in the machine's page cache."""
        _libc.madvise(self._base, self._size, _DONT_NEED)


def _mmap(at: int | None, size: int, protection: int, flags: int, fd: int, offset: int) -> int:
    address = _libc.mmap(at, size, protection, flags, fd, offset)
    if address is None or address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"mmap of {size} bytes: {os.strerror(error)}")
    return address
