"""Arrays on disk: one-dimensional .npy files that are appended to while they grow and mapped once they are whole."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import UserError

#: Every file's header has this length, whatever its shape, so that it can be written anew when the length is known.
HEADER_BYTES = 128
_MAGIC = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True)
class Sparse:
    """A sparse matrix in compressed form: row r has ``indices[offsets[r]:offsets[r+1]]`` with ``values`` beside them.

    offsets [n + 1] and indices [nnz] are of one integer type (int32, or int64 from 2^31 pairs on), as scipy takes them
    without copying; values [nnz] float32. Memory-mapped.
    """

    offsets: NDArray[np.integer]
    indices: NDArray[np.integer]
    values: NDArray[np.float32]

    def row(self, r: int) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
        """Return (indices, values) of one row, views of the file."""
        part = slice(int(self.offsets[r]), int(self.offsets[r + 1]))
        return self.indices[part], self.values[part]


def header(dtype: np.dtype, length: int) -> bytes:
    """Return the 128 bytes with which a .npy file of one dimension begins."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    room = HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + room.to_bytes(2, "little") + text.ljust(room - 1).encode("ascii") + b"\n"


class Appended:
    """A .npy file that grows. ``length`` items are in it; what lies beyond is cut off when it is opened again."""

    def __init__(self, path: Path, dtype: Any, length: int = 0) -> None:
        self.path, self.dtype, self.length = path, np.dtype(dtype).newbyteorder("<"), length
        path.touch()
        # Unbuffered: what a failed write leaves behind must not be tried again when the file is closed.
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by close()
        self._file.truncate(HEADER_BYTES + length * self.dtype.itemsize)
        self._file.seek(0)
        self._write(header(self.dtype, length))
        self._file.seek(0, os.SEEK_END)

    def append(self, values: Any) -> None:
        """Append values, converted to the file's dtype."""
        array = np.ascontiguousarray(values, dtype=self.dtype)
        self._write(array.tobytes())
        self.length += array.size

    def sync(self) -> None:
        """Write the header for the present length and make everything survive a power cut."""
        self._file.seek(0)
        self._write(header(self.dtype, self.length))
        self._file.seek(0, os.SEEK_END)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; ``sync`` first what is to be kept."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            view = view[self._file.write(view) :]


def save(path: Path, values: NDArray, dtype: Any = None) -> None:
    """Write a whole one-dimensional array, flushed to disk."""
    file = Appended(path, values.dtype if dtype is None else dtype)
    file.append(values)
    file.sync()
    file.close()


def read_chunks(path: Path, dtype: Any, chunk: int) -> Iterator[NDArray]:
    """Yield the items of such a file, ``chunk`` at a time, through plain reads: nothing of it stays in memory."""
    kind = np.dtype(dtype).newbyteorder("<")
    with open(path, "rb") as file:
        file.seek(HEADER_BYTES)
        while len(part := np.fromfile(file, kind, chunk)):
            yield part


def mapped(path: Path, dtype: str, length: int) -> NDArray:
    """Return such a file memory-mapped. Raises UserError unless it holds ``length`` items of ``dtype``."""
    kind = np.dtype(dtype)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            begin = file.read(HEADER_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make the store again") from error
    wanted = HEADER_BYTES + length * kind.itemsize
    if size != wanted or begin != header(kind, length):
        raise UserError(
            f"{path}: {size} bytes that are not the {wanted} of {length} {kind.name} its manifest says; it is cut off "
            "or damaged: make the store again (python -m sae_lightning.index ... overwrite=true)"
        )
    if not length:
        return np.zeros(0, kind)
    return np.asarray(np.memmap(path, kind, "r", HEADER_BYTES, (length,)))
