"""The manifest of a cache: what it holds, and the journal of its building."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sae_lightning.activations.cache.key import FORMAT, address
from sae_lightning.core import UserError, write_json

NAME = "manifest.json"


@dataclass(frozen=True)
class ShardEntry:
    """One shard: sample windows ``first_window`` to ``first_window + windows - 1``, their rows, and its two files."""

    file: str
    index: str
    first_window: int
    windows: int
    rows: int
    bytes: int
    index_bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class CacheManifest:
    """``manifest.json`` of a cache folder, written anew after each shard: a shard that is not named does not exist.

    key: see ``key.cache_key``. facts: what a person wants to know (LM, text, device) and what the layout needs (d,
    vocab_size). shards: in the order of their windows, without gaps. created: ISO time.
    """

    key: dict[str, Any]
    facts: dict[str, Any]
    shards: tuple[ShardEntry, ...]
    created: str
    format: int = FORMAT

    @property
    def n_windows(self) -> int:
        return sum(shard.windows for shard in self.shards)

    @property
    def n_rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Bytes of all shards, indices included."""
        return sum(shard.bytes + shard.index_bytes for shard in self.shards)

    def with_shard(self, shard: ShardEntry) -> "CacheManifest":
        """Return the manifest with one more shard, or with another in the place of the one of the same name."""
        kept = [old for old in self.shards if old.file != shard.file]
        return replace(self, shards=tuple(sorted([*kept, shard], key=lambda entry: entry.first_window)))

    def save(self, folder: Path) -> None:
        write_json(folder / NAME, asdict(self))

    def _check(self, folder: Path) -> None:
        """Raise KeyError, TypeError or ValueError for content that no builder wrote."""
        if address(self.key) != folder.name:
            raise ValueError("its key is another folder's")
        for name, kind in (("d", int), ("vocab_size", int), ("lm", str), ("text", str), ("split", str)):
            if not isinstance(self.facts[name], kind):
                raise TypeError(f"facts.{name} is {self.facts[name]!r}")
        for shard in self.shards:
            for name in ("first_window", "windows", "rows", "bytes", "index_bytes"):
                if type(getattr(shard, name)) is not int:
                    raise TypeError(f"{name} of {shard.file} is {getattr(shard, name)!r}")

    @classmethod
    def load(cls, folder: Path) -> "CacheManifest | None":
        """Return the manifest in ``folder``, None where there is none; UserError for another version or a torn one."""
        path = folder / NAME
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            version = value["format"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(path, error) from error
        if version != FORMAT:
            raise UserError(
                f"{folder}: an activation cache of format {version}, this version reads format {FORMAT}; remove it "
                f"(python -m sae_lightning.cache prune {folder.name} --dir {folder.parent}) or set another "
                "data.cache_dir"
            )
        try:
            shards = tuple(ShardEntry(**shard) for shard in value["shards"])
            manifest = cls(**{**value, "shards": shards})
            manifest._check(folder)
        except (TypeError, KeyError, ValueError) as error:
            raise _unreadable(path, error) from error
        ends = [shard.first_window + shard.windows for shard in shards]
        if [shard.first_window for shard in shards] != [0, *ends][: len(shards)]:
            raise _unreadable(path, ValueError("its shards have gaps"))
        return manifest


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: is no manifest of an activation cache ({error}); remove {path.parent}, it is made again")
