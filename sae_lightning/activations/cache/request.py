"""Caches that are there when they are needed: built once under a lock by whoever comes first, then shared."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lightning.activations.cache.budget import check_space
from sae_lightning.activations.cache.build import Growing, count_rows, folder_of, one_pass, rebuild_shard
from sae_lightning.activations.cache.key import build_lock, default_root
from sae_lightning.activations.cache.manifest import CacheManifest, ShardEntry
from sae_lightning.activations.cache.reader import ActivationCache, Repair
from sae_lightning.activations.cache.shard import shard_is_whole
from sae_lightning.core import UserError
from sae_lightning.core.locks import file_lock
from sae_lightning.core.progress import progress
from sae_lightning.tokens.disk import disk_errors
from sae_lightning.tokens.sample import WindowSample

if TYPE_CHECKING:
    from sae_lightning.lm import FrozenLM

logger = logging.getLogger(__name__)

Check = Callable[[], None]
Caches = dict[str, ActivationCache]


@dataclass(frozen=True)
class CacheRequest:
    """These sites at all windows of this sample."""

    windows: WindowSample
    sites: tuple[str, ...]


def ensure(
    lm: "FrozenLM",
    requests: Sequence[CacheRequest],
    *,
    root: Path | None = None,
    micro_batch: int = 32,
    shard_bytes: int = 128 << 20,
    max_bytes: int | None = None,
    check: Check | None = None,
) -> list[Caches]:
    """Return the caches of each request by site, after building what they lack.

    All sites of a text are read in one pass of the language model, and only windows that are not there yet. One
    process on a machine builds at a time, the others wait with progress, and what they then find they do not build
    again. A builder that is killed loses its unfinished shard.

    max_bytes: limit on the whole of ``root``. Raises CacheTooBig (a UserError) before anything is written when the
    limit or the disk would not hold what is missing; UserError for a cache of another format.
    check: called before each micro-batch of the LM and while waiting; what it raises ends the build.
    """
    root = root or default_root()
    if _missing(lm, requests, root, micro_batch):
        with disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            with _build_lock(root, _waiting(lm, requests, root, micro_batch), check):
                _build(lm, requests, root, micro_batch, shard_bytes, max_bytes, check)
    return [_open(lm, request, root, micro_batch, _repair(lm, request.windows, root)) for request in requests]


def open_caches(
    lm: "FrozenLM", requests: Sequence[CacheRequest], *, root: Path | None = None, micro_batch: int = 32
) -> list[Caches]:
    """Return the caches of each request as they are, for ``data.cache=only``: the language model is never read.

    Raises UserError when one of them is missing or too small, and later, when a shard turns out damaged.
    """
    root = root or default_root()
    if missing := _missing(lm, requests, root, micro_batch):
        windows, site, there = missing[0]
        folder = folder_of(root, lm, windows, site, micro_batch)
        raise UserError(
            f"data.cache=only: the activation cache of {lm.name} at {site} holds {there:,} of the {len(windows):,} "
            f"windows of the {windows.split} split that this run reads ({folder}); build it with "
            "python -m sae_lightning.cache and the same settings, or set data.cache=auto"
        )
    return [_open(lm, request, root, micro_batch, None) for request in requests]


def _missing(
    lm: "FrozenLM", requests: Sequence[CacheRequest], root: Path, micro_batch: int
) -> list[tuple[WindowSample, str, int]]:
    """Return (sample, site, windows there) of every cache that is smaller than asked for."""
    out = []
    for request in requests:
        for site in request.sites:
            manifest = CacheManifest.load(folder_of(root, lm, request.windows, site, micro_batch))
            there = manifest.n_windows if manifest is not None else 0
            if there < len(request.windows):
                out.append((request.windows, site, there))
    return out


def _build(
    lm: "FrozenLM",
    requests: Sequence[CacheRequest],
    root: Path,
    micro_batch: int,
    shard_bytes: int,
    max_bytes: int | None,
    check: Check | None,
) -> None:
    """Build what is missing, with the lock held: a pass for each text."""
    samples: dict[str, WindowSample] = {}
    wanted: dict[str, dict[str, Growing]] = {}
    for windows, site, _ in _missing(lm, requests, root, micro_batch):
        base = windows.base.identity()
        if len(windows) > len(samples.get(base, ())):
            samples[base] = windows
        folder = folder_of(root, lm, windows, site, micro_batch)
        wanted.setdefault(base, {})[site] = Growing(folder, lm, windows, site, micro_batch, shard_bytes)
    counts, need = {}, 0
    for base, caches in wanted.items():
        first = min(cache.done for cache in caches.values())
        counts[base] = count_rows(samples[base], first, len(samples[base]))
        for cache in caches.values():
            cache.windows = samples[base]
            if cache.folder.is_dir():
                cache.clear()
            need += cache.bytes_for(counts[base][cache.done - first :])
    if not wanted:
        return
    check_space(root, need, max_bytes)
    for base, caches in wanted.items():
        for cache in caches.values():
            cache.clear()
        logger.info("keeping activations of %d windows at %s in %s", len(samples[base]), ", ".join(caches), root)
        one_pass(lm, samples[base], list(caches.values()), counts[base], micro_batch, check)


def _open(lm: "FrozenLM", request: CacheRequest, root: Path, micro_batch: int, repair: Repair | None) -> Caches:
    places = {site: folder_of(root, lm, request.windows, site, micro_batch) for site in request.sites}
    return {site: ActivationCache.open(folder, repair) for site, folder in places.items()}


def _repair(lm: "FrozenLM", windows: WindowSample, root: Path) -> Repair:
    """Return what rebuilds a damaged shard: one process does, the others find it whole."""

    def rebuild(folder: Path, entry: ShardEntry) -> ShardEntry:
        with disk_errors(folder), file_lock(build_lock(root)):
            manifest = CacheManifest.load(folder)
            found = {shard.file: shard for shard in manifest.shards} if manifest else {}
            now = found.get(entry.file)
            if now is None:
                raise UserError(f"{folder}: the cache was removed while it was read; start again")
            if shard_is_whole(folder, now):
                return now
            sample = WindowSample(windows.base, now.first_window + now.windows)
            return rebuild_shard(lm, sample, folder, now)

    return rebuild


@contextmanager
def _build_lock(root: Path, waiting: Callable[[], tuple[int, int, int]], check: Check | None) -> Iterator[None]:
    """Hold the lock of a root; while another process builds, show how far it is."""
    shown = 0
    _, total, _ = waiting()
    with progress("waiting for another process that builds activations", total) as advance:

        def look() -> None:
            nonlocal shown
            if check is not None:
                check()
            windows, _, shards = waiting()
            advance(windows - shown, f"{shards} shards, {windows:,} of {total:,} windows")
            shown = windows

        lock = file_lock(build_lock(root), look)
        lock.__enter__()
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _waiting(
    lm: "FrozenLM", requests: Sequence[CacheRequest], root: Path, micro_batch: int
) -> Callable[[], tuple[int, int, int]]:
    """Return a function that tells (windows there, windows wanted, shards there) of all caches asked for."""
    places: Mapping[Path, int] = {
        folder_of(root, lm, request.windows, site, micro_batch): len(request.windows)
        for request in requests
        for site in request.sites
    }

    def look() -> tuple[int, int, int]:
        manifests = [CacheManifest.load(folder) for folder in places]
        there = [(m.n_windows, len(m.shards)) if m is not None else (0, 0) for m in manifests]
        windows = sum(min(n, want) for (n, _), want in zip(there, places.values(), strict=True))
        return windows, sum(places.values()), sum(shards for _, shards in there)

    return look
