"""Reading a cache: rows by number, checked the first time, from maps that the processes of a machine share."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.cache.address_space import AddressSpace
from sae_lightning.activations.cache.manifest import CacheManifest, ShardEntry
from sae_lightning.activations.cache.shard import Shard
from sae_lightning.core import UserError
from sae_lightning.core.files import allow_open_files

logger = logging.getLogger(__name__)

Repair = Callable[[Path, ShardEntry], ShardEntry]
USED = ".used"
# Pages that a process has touched count as its memory: they go back after so many windows.
_KEPT = 256


class ActivationCache:
    """The vectors of one site for sample windows 0 .. n_windows - 1: a row for every real token, in window order.

    A row's number says which token it is and nothing about the site: caches of other sites of the same text number
    their rows alike. n_rows, d, dtype: of the whole. Memory: the index's checksums are read once, pages as they are
    touched and given back when others came.

    Every window's checksum is compared when a process first touches it. A damaged shard is never handed out: it is
    rebuilt through ``repair`` (the same bytes again), and where there is none a UserError names it.
    Raises UserError for a folder that is no cache, or of another format.
    """

    def __init__(self, folder: Path, manifest: CacheManifest, repair: Repair | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.n_windows = manifest.n_windows
        self.n_rows = manifest.n_rows
        self.d = int(manifest.facts["d"])
        self.dtype: torch.dtype = getattr(torch, manifest.key["dtype"])
        self._repair = repair
        self._first_window = np.array([entry.first_window for entry in manifest.shards], dtype=np.int64)
        self._first_row = np.cumsum([0, *(entry.rows for entry in manifest.shards)])
        self._space = AddressSpace(self.d * self.dtype.itemsize, [entry.rows for entry in manifest.shards])
        self._shards: list[Shard | None] = [None] * len(manifest.shards)
        self._opened = np.zeros(len(manifest.shards), dtype=bool)
        self._mapped = 0
        self._kept = _KEPT
        allow_open_files(len(self._shards) + 256)  # the map of an index keeps its file open
        with suppress(OSError):  # a folder that others own is read all the same
            (folder / USED).touch()

    @classmethod
    def open(cls, folder: str | Path, repair: Repair | None = None) -> "ActivationCache":
        folder = Path(folder)
        manifest = CacheManifest.load(folder)
        if manifest is None:
            raise UserError(f"{folder}: is no activation cache, it has no manifest; build it with data.cache=auto")
        return cls(folder, manifest, repair)

    @property
    def address(self) -> str:
        """The name of the folder: the hash of what the cache holds."""
        return self.folder.name

    def window_rows(self, windows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of each window and the row after its last."""
        numbers = np.asarray(windows, dtype=np.int64)
        self._check_range(numbers, self.n_windows, "window")
        first, after = np.empty_like(numbers), np.empty_like(numbers)
        which = np.searchsorted(self._first_window, numbers, side="right") - 1
        for number in np.unique(which):
            here = which == number
            offsets, local = self._shard(number).offsets, numbers[here] - self._first_window[number]
            first[here] = self._first_row[number] + offsets[local]
            after[here] = self._first_row[number] + offsets[local + 1]
        return first, after

    def gather(
        self, rows: NDArray[np.integer], out: Tensor | None = None, *, checked: bool = False
    ) -> Float[Tensor, "n d"]:
        """Return these rows in this order, in ``dtype`` on the CPU.

        out: where to put them, [n, d] of ``dtype``, contiguous. checked: their windows have been through ``verify``.
        """
        rows = np.asarray(rows, dtype=np.int64)
        self._check_range(rows, self.n_rows, "row")
        if not checked:
            self.verify_rows(rows)
        out = torch.empty(len(rows), self.d, dtype=self.dtype) if out is None else out
        if len(rows):
            which = np.searchsorted(self._first_row, rows, side="right") - 1
            if not self._opened[which].all():
                raise RuntimeError("rows of a shard that is not open: verify their windows first")  # not a fault signal
            bits = out.view(torch.uint8).numpy().view(f"V{self.d * self.dtype.itemsize}").reshape(-1)
            self._space.take(rows + (self._space.first[:-1] - self._first_row[:-1])[which], bits)
        return out

    def provenance(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return (text number, position in the text, token id) of rows, as integers."""
        text, position, token = (self.column(name, rows).astype(np.int64) for name in ("text", "position", "token"))
        return text, position, token

    def column(self, name: str, rows: NDArray[np.integer]) -> NDArray:
        """Return one column of the index for these rows: text, position, token, place or norm."""
        rows = np.asarray(rows, dtype=np.int64)
        self._check_range(rows, self.n_rows, "row")
        out: NDArray | None = None
        for number, here, local in self._by_shard(rows):
            values = self._shard(number).index[name][local]
            if here is None:
                return values
            out = np.empty(len(rows), dtype=values.dtype) if out is None else out
            out[here] = values
        return np.empty(0, dtype=np.int64) if out is None else out

    def verify_rows(self, rows: NDArray[np.integer]) -> None:
        """Check the windows that these rows lie in."""
        for number, _, local in self._by_shard(np.asarray(rows, dtype=np.int64)):
            self._checked(number, self._shard(number).windows_of(local))

    def verify(self, windows: NDArray[np.integer]) -> None:
        """Check these windows, as ``gather`` would: ahead of time, and in the order of the disk."""
        for number, local in self._windows_by_shard(windows):
            self._checked(number, local)
        self._mapped += len(windows)
        if self._mapped > self._kept:
            # All at once: one window at a time would interrupt every thread of the process for each.
            self._mapped = 0
            self.release()

    def will_need(self, windows: NDArray[np.integer]) -> None:
        """Let the kernel fetch these windows from the disk, without waiting."""
        for number, local in self._windows_by_shard(windows):
            self._shard(number).will_need(local)

    def keep_mapped(self, n_windows: int) -> None:
        """Give pages back after so many windows; a reader that comes back to them later pays a fault each."""
        self._kept = n_windows

    def release(self) -> None:
        """Give back the pages of this process; they stay cached by the machine."""
        self._space.release()
        for shard in self._shards:
            if shard is not None:
                shard.release()

    def _by_shard(self, rows: NDArray[np.int64]):
        """Yield (shard, places in ``rows`` or None for all, rows within the shard)."""
        which = np.searchsorted(self._first_row, rows, side="right") - 1
        numbers = np.unique(which)
        for number in numbers:
            here = None if len(numbers) == 1 else np.flatnonzero(which == number)
            yield int(number), here, (rows if here is None else rows[here]) - self._first_row[number]

    def _windows_by_shard(self, windows: NDArray[np.integer]):
        numbers = np.unique(np.asarray(windows, dtype=np.int64))
        self._check_range(numbers, self.n_windows, "window")
        which = np.searchsorted(self._first_window, numbers, side="right") - 1
        for number in np.unique(which):
            yield int(number), numbers[which == number] - self._first_window[number]

    def _shard(self, number: int) -> Shard:
        shard = self._shards[number]
        if shard is None:
            try:
                shard = Shard(self.folder, self.manifest.shards[number], self._space, number)
            except (OSError, ValueError) as error:
                shard = self._rebuilt(number, str(error))
            self._shards[number] = shard
            self._opened[number] = True
        return shard

    def _checked(self, number: int, windows: NDArray[np.integer]) -> Shard:
        shard = self._shard(number)
        if shard.damaged(windows):
            shard = self._shards[number] = self._rebuilt(number, "its vectors fail their checksum")
            if shard.damaged(windows):
                raise UserError(f"{self.folder / shard.entry.file}: damaged again after a rebuild; check the disk")
        return shard

    def _rebuilt(self, number: int, what: str) -> Shard:
        entry = self.manifest.shards[number]
        if self._repair is None:
            raise UserError(
                f"{self.folder / entry.file}: the shard is damaged ({what}) and there is no language model to rebuild "
                "it; run with data.cache=auto"
            )
        logger.warning("%s: the shard is damaged (%s), rebuilding it", self.folder / entry.file, what)
        return Shard(self.folder, self._repair(self.folder, entry), self._space, number)

    def _check_range(self, numbers: NDArray[np.integer], end: int, what: str) -> None:
        if numbers.size and (numbers.min() < 0 or numbers.max() >= end):
            raise IndexError(f"{what} number outside 0..{end - 1}")
