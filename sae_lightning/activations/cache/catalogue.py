"""What caches there are, whether they are whole, and which may go."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_lightning.activations.cache.budget import folder_bytes
from sae_lightning.activations.cache.key import build_lock
from sae_lightning.activations.cache.manifest import NAME, CacheManifest
from sae_lightning.activations.cache.reader import USED
from sae_lightning.activations.cache.shard import shard_is_whole
from sae_lightning.core import UserError, nearest
from sae_lightning.core.locks import file_lock
from sae_lightning.core.progress import progress


@dataclass(frozen=True)
class Listed:
    """A folder of a root. manifest: None where it cannot be read (torn, or of another format), and ``problem`` why.

    used: when it was last opened, in Unix seconds. bytes: of all its files.
    """

    folder: Path
    manifest: CacheManifest | None
    problem: str
    bytes: int
    used: float

    @property
    def address(self) -> str:
        return self.folder.name


def catalogue(root: Path) -> list[Listed]:
    """Return the caches of a root, last used first. UserError where there is no such folder."""
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; give the one of data.cache_dir in --dir")
    out = []
    for folder in root.iterdir():
        # A builder that was killed before its first shard leaves a folder without a manifest; so does a removal.
        leftovers = [*folder.glob(".shard-*.tmp"), *folder.glob("shard-*")] if folder.is_dir() else []
        if not folder.is_dir() or not ((folder / NAME).exists() or leftovers):
            continue
        manifest, problem = None, "no manifest: unfinished, or left by a removal that was interrupted"
        try:
            manifest = CacheManifest.load(folder) or manifest
        except UserError as error:
            problem = str(error)
        marks = [path for path in (folder / USED, folder / NAME, folder) if path.exists()]
        out.append(Listed(folder, manifest, problem, folder_bytes(folder), marks[0].stat().st_mtime))
    return sorted(out, key=lambda listed: (-listed.used, listed.address))


def verify(listed: Listed) -> list[str]:
    """Read every byte of a cache and return what is wrong, a line for each damaged shard."""
    if listed.manifest is None:
        return [listed.problem if str(listed.folder) in listed.problem else f"{listed.folder}: {listed.problem}"]
    problems = []
    with progress(f"verifying {listed.address}", listed.manifest.n_bytes) as advance:
        for entry in listed.manifest.shards:
            if not shard_is_whole(listed.folder, entry):
                problems.append(
                    f"{listed.folder / entry.file}: damaged (windows {entry.first_window} to "
                    f"{entry.first_window + entry.windows - 1}); the next run that reads it rebuilds it"
                )
            advance(entry.bytes + entry.index_bytes)
    return problems


def choose(
    caches: Sequence[Listed],
    addresses: Sequence[str] = (),
    *,
    older_than_days: float | None = None,
    to_bytes: int | None = None,
    now: float | None = None,
) -> list[Listed]:
    """Return what is to be removed: the caches named, those not used for so long, and the longest unused ones until no
    more than ``to_bytes`` are left. An address may be cut short as long as it names one cache.

    Raises UserError for an address that names none or several.
    """
    now = time.time() if now is None else now
    chosen = [_named(caches, address) for address in addresses]
    if older_than_days is not None:
        chosen += [cache for cache in caches if now - cache.used > older_than_days * 86_400]
    if to_bytes is not None:
        gone = {cache.address for cache in chosen}
        left = sum(cache.bytes for cache in caches if cache.address not in gone)
        for cache in sorted(caches, key=lambda cache: cache.used):
            if left <= to_bytes:
                break
            if cache.address not in gone:
                chosen.append(cache)
                left -= cache.bytes
    return list({cache.address: cache for cache in chosen}.values())


def remove(root: Path, caches: Sequence[Listed], waiting: Callable[[], None] | None = None) -> int:
    """Remove caches, not while one is being built; return the bytes that went. A run that reads one keeps what it has
    opened and builds the rest again."""
    with file_lock(build_lock(root), waiting):
        for cache in caches:
            # The manifest first: without it what is left is no cache, whatever interrupts the removal.
            (cache.folder / NAME).unlink(missing_ok=True)
            shutil.rmtree(cache.folder, ignore_errors=True)
    return sum(cache.bytes for cache in caches)


def _named(caches: Sequence[Listed], address: str) -> Listed:
    found = [cache for cache in caches if cache.address.startswith(address)]
    exact = [cache for cache in found if cache.address == address]
    if len(exact or found) != 1:
        what = "names several caches" if found else "names no cache"
        hint = nearest(address, [cache.address for cache in caches]) or "; see list"
        raise UserError(f"{address}: {what}{hint}")
    return (exact or found)[0]
