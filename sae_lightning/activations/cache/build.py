"""Building caches: several sites in one pass of the language model, shard by shard, never the same shard twice."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.cache.key import address, cache_key
from sae_lightning.activations.cache.manifest import NAME, CacheManifest, ShardEntry
from sae_lightning.activations.cache.reader import USED
from sae_lightning.activations.cache.shard import ShardWriter, index_columns
from sae_lightning.activations.harvest import read_windows
from sae_lightning.activations.mask import real_tokens, row_norms
from sae_lightning.core import TokenBatch
from sae_lightning.core.progress import progress

if TYPE_CHECKING:
    from sae_lightning.lm import FrozenLM
    from sae_lightning.tokens import WindowSample

logger = logging.getLogger(__name__)

Check = Callable[[], None]
_COUNTED = 4096


class Growing:
    """One cache that is being extended to ``n_windows`` windows: its manifest, and the shard being written.

    ``size`` windows go into a shard: as many as ``shard_bytes`` hold when every position is real, in whole
    micro-batches where possible.
    """

    def __init__(
        self, folder: Path, lm: "FrozenLM", windows: "WindowSample", site: str, micro_batch: int, shard_bytes: int
    ) -> None:
        self.folder = folder
        self.site = site
        self.windows = windows
        self.d = lm.site_width(site)
        self.dtype = lm.dtype
        self.vocab_size = lm.vocab_size
        self.manifest = CacheManifest.load(folder) or _new_manifest(lm, windows, site, micro_batch, self.d)
        self.done = self.manifest.n_windows
        fits = max(1, shard_bytes // (windows.context_length * self.d * self.dtype.itemsize))
        self.size = fits // micro_batch * micro_batch or fits
        self._writer: ShardWriter | None = None

    def clear(self) -> None:
        """Remove what a killed builder left: files that the manifest does not name."""
        known = {NAME, USED} | {name for shard in self.manifest.shards for name in (shard.file, shard.index)}
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in known and path.is_file():
                path.unlink(missing_ok=True)

    def bytes_for(self, counts: NDArray[np.int64]) -> int:
        """Return the bytes that windows with these rows will take, all files together."""
        rows, n = int(counts.sum()), len(counts)
        columns = index_columns(n, rows, self.vocab_size, self.windows.context_length)
        shards = -(-n // self.size)
        return rows * self.d * self.dtype.itemsize + sum(c.n_bytes for c in columns) + shards * (2 * 4096 + 1024)

    def add(self, batch: TokenBatch, x: Tensor, counts: NDArray[np.int64], first: int) -> None:
        """Append windows ``self.done`` onwards. x [b, p, d]. counts: rows of each window from number ``first`` on."""
        real = real_tokens(batch)
        provenance = provenance_columns(self.windows, batch, x)
        rows, own = x[real.to(x.device)], real.sum(1).numpy()
        ends = np.concatenate([[0], np.cumsum(own)])
        taken = 0
        while taken < len(own):
            writer = self._writer or self._open(counts, first)
            n = min(writer.windows_left, len(own) - taken)
            a, b = int(ends[taken]), int(ends[taken + n])
            part = {name: values[a:b] for name, values in provenance.items()}
            writer.add(own[taken : taken + n], rows[a:b], part)
            self.done += n
            taken += n
            if not writer.windows_left:
                self.manifest = self.manifest.with_shard(writer.finish())
                self.manifest.save(self.folder)
                self._writer = None

    def abandon(self) -> None:
        """Remove the unfinished shard, if there is one."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _open(self, counts: NDArray[np.int64], first: int) -> ShardWriter:
        own = counts[self.done - first :][: self.size]
        self._writer = self.writer(len(self.manifest.shards), self.done, own)
        return self._writer

    def writer(self, number: int, first_window: int, counts: NDArray[np.int64]) -> ShardWriter:
        """Return the writer of one shard of this cache."""
        return ShardWriter(
            self.folder,
            number,
            first_window,
            counts,
            d=self.d,
            dtype=self.dtype,
            vocab_size=self.vocab_size,
            context_length=self.windows.context_length,
        )


def count_rows(windows: "WindowSample", first: int, last: int) -> NDArray[np.int64]:
    """Return the number of real tokens of each window ``first`` to ``last - 1``."""
    out = np.empty(last - first, dtype=np.int64)
    with progress("counting tokens", last - first) as advance:
        for begin in range(first, last, _COUNTED):
            end = min(begin + _COUNTED, last)
            out[begin - first : end - first] = real_tokens(windows.batch(np.arange(begin, end))).sum(1).numpy()
            advance(end - begin)
    return out


def one_pass(
    lm: "FrozenLM",
    windows: "WindowSample",
    growing: Sequence[Growing],
    counts: NDArray[np.int64],
    micro_batch: int,
    check: Check | None,
) -> None:
    """Extend every cache to all of ``windows``; a window is read once for all caches that lack it.

    counts: rows of each window from the first that any of them lacks. check: called before each micro-batch.
    """
    first, end = min(cache.done for cache in growing), len(windows)
    begins = sorted({cache.done for cache in growing})
    sites = ", ".join(cache.site for cache in growing)
    with progress(f"activations of {lm.name} at {sites}", end - first) as advance, _abandoning(growing):
        at = first
        while at < end:
            if check is not None:
                check()
            stop = min([at + micro_batch, end, *(b for b in begins if b > at)])
            active = [cache for cache in growing if cache.done == at]
            batch = windows.batch(np.arange(at, stop))
            read = read_windows(lm, batch.tokens, [cache.site for cache in active], micro_batch)
            for cache in active:
                cache.add(batch, read[cache.site], counts, first)
            shards = sum(len(cache.manifest.shards) for cache in growing)
            advance(stop - at, f"{stop:,} of {end:,} windows, {shards} shards")
            at = stop


def rebuild_shard(lm: "FrozenLM", windows: "WindowSample", folder: Path, entry: ShardEntry) -> ShardEntry:
    """Write one shard anew from the language model and return its entry, which also goes into the manifest."""
    manifest = CacheManifest.load(folder)
    assert manifest is not None
    micro_batch, site = int(manifest.key["micro_batch"]), str(manifest.key["site"])
    growing = Growing(folder, lm, windows, site, micro_batch, shard_bytes=1)
    last = entry.first_window + entry.windows
    number = manifest.shards.index(entry)
    writer = growing.writer(number, entry.first_window, count_rows(windows, entry.first_window, last))
    try:
        with progress(f"rebuilding {entry.file}", entry.windows) as advance:
            for begin in range(entry.first_window, last, micro_batch):
                batch = windows.batch(np.arange(begin, min(begin + micro_batch, last)))
                x = read_windows(lm, batch.tokens, [site], micro_batch)[site]
                real = real_tokens(batch)
                provenance = provenance_columns(windows, batch, x)
                writer.add(real.sum(1).numpy(), x[real.to(x.device)], provenance)
                advance(len(batch.tokens))
        new = writer.finish()
    except BaseException:
        writer.abandon()
        raise
    if new.sha256 != entry.sha256:
        logger.warning("%s: rebuilt with other bytes than before; the machine or its libraries changed", entry.file)
    manifest.with_shard(new).save(folder)
    return new


def provenance_columns(windows: "WindowSample", batch: TokenBatch, x: Tensor) -> dict[str, NDArray[Any]]:
    """Return the index's columns of the real tokens of some windows."""
    real = real_tokens(batch)
    text, position = windows.store.locate(batch.token_index[real].numpy())
    place = np.broadcast_to(np.arange(real.shape[1]), real.shape)
    return {
        "text": text,
        "position": position,
        "token": batch.tokens[real].numpy(),
        "place": place[real.numpy()],
        # Of [windows, positions, d] as the mask takes them, so that the same norms decide.
        "norm": row_norms(x).cpu()[real].numpy(),
    }


@contextmanager
def _abandoning(growing: Sequence[Growing]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for cache in growing:
            with suppress(OSError):
                cache.abandon()
        raise


def _new_manifest(lm: "FrozenLM", windows: "WindowSample", site: str, micro_batch: int, d: int) -> CacheManifest:
    identity = lm.identity()
    facts = {
        "lm": lm.name,
        "revision": identity["revision"],
        "d": d,
        "vocab_size": lm.vocab_size,
        "device": lm.device.type,
        "text": str(windows.store.path),
        "split": windows.split,
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return CacheManifest(cache_key(lm, windows, site, micro_batch), facts, (), created)


def folder_of(root: Path, lm: "FrozenLM", windows: "WindowSample", site: str, micro_batch: int) -> Path:
    """Return where the cache of a site lies."""
    return root / address(cache_key(lm, windows, site, micro_batch))
