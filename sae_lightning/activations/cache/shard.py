"""A shard: the vectors of some windows in one file, where they come from in another, checksums for both."""

import hashlib
import itertools
import mmap
import os
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.cache.address_space import AddressSpace
from sae_lightning.activations.cache.container import Column, checksum, dtype_name, header, mapped_columns
from sae_lightning.activations.cache.manifest import ShardEntry
from sae_lightning.core import file_sha256
from sae_lightning.core.files import fsync_folder

VECTORS = "x"


def index_columns(n_windows: int, n_rows: int, vocab_size: int, context_length: int) -> list[Column]:
    """Return the columns of an index, widest first so that each is aligned.

    offsets [windows + 1]: first row of each window in the shard. xxh3 [windows]: checksum of its vectors' bytes. Of
    each row: text (number of the document), position (in it), norm (``row_norms``), token (id), place (in the window).
    """
    return [
        Column("offsets", "I64", (n_windows + 1,)),
        Column("xxh3", "U64", (n_windows,)),
        Column("text", "U32", (n_rows,)),
        Column("position", "U32", (n_rows,)),
        Column("norm", "F32", (n_rows,)),
        Column("token", "U16" if vocab_size <= 1 << 16 else "U32", (n_rows,)),
        Column("place", "U16" if context_length <= 1 << 16 else "U32", (n_rows,)),
    ]


class ShardWriter:
    """Writes one shard whose rows per window are known: the header, then vectors as they come (RAM: one index).

    The two files get their names when they are whole and on disk, in ``finish``; until then they end in ``.tmp``.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        first_window: int,
        counts: NDArray[np.integer],
        *,
        d: int,
        dtype: torch.dtype,
        vocab_size: int,
        context_length: int,
    ) -> None:
        self.folder = folder
        self.first_window = first_window
        self.counts = counts
        self.file = f"shard-{number:05d}.safetensors"
        self.index = f"shard-{number:05d}.index.safetensors"
        self._rows = int(counts.sum())
        columns = index_columns(len(counts), self._rows, vocab_size, context_length)
        self._index_header = header(columns)
        self._columns = {column.name: np.zeros(column.shape, column.numpy_dtype) for column in columns}
        np.cumsum(counts, out=self._columns["offsets"][1:])
        self._windows_done = 0
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._out: IO[bytes] = open(self._temporary(self.file), "wb")  # noqa: SIM115 - open until finish or abandon
        self._write(header([Column(VECTORS, dtype_name(dtype), (self._rows, d))]))

    @property
    def windows_left(self) -> int:
        return len(self.counts) - self._windows_done

    def add(self, counts: NDArray[np.integer], x: Float[Tensor, "n d"], provenance: dict[str, NDArray]) -> None:
        """Append the next windows: rows of each, vectors and the columns of the index."""
        first = self._windows_done
        last = first + len(counts)
        if not np.array_equal(counts, self.counts[first:last]):
            raise ValueError(f"{self.file}: windows {first} to {last} have other rows than when they were counted")
        offsets = self._columns["offsets"]
        begin, end = int(offsets[first]), int(offsets[last])
        data = x.detach().cpu().contiguous().view(torch.uint8).numpy().reshape(-1).data
        starts = (offsets[first : last + 1] - begin) * x.shape[1] * x.element_size()
        for window, (a, b) in enumerate(itertools.pairwise(starts.tolist()), start=first):
            self._columns["xxh3"][window] = checksum(data[a:b])
        for name, values in provenance.items():
            self._columns[name][begin:end] = values
        self._write(data)
        self._windows_done = last

    def finish(self) -> ShardEntry:
        """Put both files in place and return the manifest's entry."""
        assert self.windows_left == 0
        _sync_and_close(self._out)
        index = self._index_header + b"".join(column.tobytes() for column in self._columns.values())
        with open(self._temporary(self.index), "wb") as file:
            file.write(index)
            _sync_and_close(file)
        for name in (self.index, self.file):
            self._temporary(name).replace(self.folder / name)
        fsync_folder(self.folder)
        return ShardEntry(
            file=self.file,
            index=self.index,
            first_window=self.first_window,
            windows=len(self.counts),
            rows=self._rows,
            bytes=self._bytes,
            index_bytes=len(index),
            sha256=self._digest.hexdigest(),
            index_sha256=hashlib.sha256(index).hexdigest(),
        )

    def abandon(self) -> None:
        """Remove what is written of an unfinished shard."""
        self._out.close()
        for name in (self.file, self.index):
            self._temporary(name).unlink(missing_ok=True)

    def _temporary(self, name: str) -> Path:
        return self.folder / f".{name}.tmp"

    def _write(self, data: bytes | memoryview) -> None:
        self._out.write(data)
        self._digest.update(data)
        self._bytes += len(data)


class Shard:
    """A shard for reading: its index, and which of its windows' vectors have been checked.

    The vectors are items ``base`` onwards of ``space``. Raises ValueError or OSError when a file is missing, of another
    size, or the index fails its checksum; the vectors are checked window by window, see ``damaged``.
    """

    def __init__(self, folder: Path, entry: ShardEntry, space: AddressSpace, number: int) -> None:
        for name, size in ((entry.file, entry.bytes), (entry.index, entry.index_bytes)):
            if (found := (folder / name).stat().st_size) != size:
                raise ValueError(f"{name} has {found} bytes, must have {size}")
        if file_sha256(folder / entry.index) != entry.index_sha256:
            raise ValueError(f"{entry.index} fails its checksum")
        space.map(number, folder / entry.file)
        self.entry = entry
        self.base = int(space.first[number])
        self.index, self._map = mapped_columns(folder / entry.index)
        if missing := {column.name for column in index_columns(0, 0, 0, 0)} - set(self.index):
            raise ValueError(f"{entry.index} lacks {', '.join(sorted(missing))}")
        self.offsets: NDArray[np.int64] = self.index["offsets"]
        self._space = space
        self._unchecked = np.ones(entry.windows, dtype=bool)

    def damaged(self, windows: NDArray[np.integer]) -> bool:
        """Whether the vectors of these windows fail their checksums; each is looked at once in a process."""
        new = windows[self._unchecked[windows]]
        for window, first, last, expected in zip(new, *self._items(new), self.index["xxh3"][new].tolist(), strict=True):
            if self._space.checksum(first, last) != expected:
                return True
            self._unchecked[window] = False
        return False

    def windows_of(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the windows (numbers within the shard) that these rows lie in."""
        return np.unique(np.searchsorted(self.offsets, rows, side="right") - 1)

    def will_need(self, windows: NDArray[np.integer]) -> None:
        """Let the kernel fetch these windows' vectors from the disk."""
        for first, last in zip(*self._items(windows), strict=True):
            self._space.will_need(first, last)

    def release(self) -> None:
        """Give back the pages of the index."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _items(self, windows: NDArray[np.integer]) -> tuple[list[int], list[int]]:
        """Return the first item of each window in the address space, and the one after its last."""
        return (self.base + self.offsets[windows]).tolist(), (self.base + self.offsets[windows + 1]).tolist()


def shard_is_whole(folder: Path, entry: ShardEntry) -> bool:
    """Read both files of a shard and compare their SHA-256."""
    try:
        return (
            file_sha256(folder / entry.file) == entry.sha256 and file_sha256(folder / entry.index) == entry.index_sha256
        )
    except OSError:
        return False


def _sync_and_close(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
