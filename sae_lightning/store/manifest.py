"""What a store says of itself: its manifest, written last, with the length and checksum of every array."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from sae_lightning.core import UserError, write_json
from sae_lightning.core.progress import progress

FORMAT, VERSION = "sae_lightning.store", 1
FILE = "manifest.json"
_BLOCK = 1 << 22


@dataclass(frozen=True)
class ArrayFile:
    """One array: its dtype (as numpy writes it), its length, and the XXH3-128 of the whole file."""

    dtype: str
    length: int
    xxh3: str


@dataclass(frozen=True)
class StoreManifest:
    """The JSON in a store's folder: a folder that has one is complete.

    key: what the store was made of; the same key, the same store. facts: what a reader wants to know of SAE, language
    model, sites, mask and data. files: by name, without ``.npy``.
    """

    key: dict[str, Any]
    facts: dict[str, Any]
    n_tokens: int
    n_kept: int
    n_texts: int
    d_sae: int
    nnz: int
    files: dict[str, ArrayFile]

    def save(self, folder: Path) -> None:
        """Write it, atomically."""
        value = asdict(self)
        write_json(folder / FILE, {"format": FORMAT, "version": VERSION, **value, "xxh3": _hash(value)})

    @classmethod
    def load(cls, folder: Path) -> "StoreManifest":
        """Read a store's manifest. Raises UserError for no store, an unfinished one, another version."""
        path = folder / FILE
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _no_store(folder) from None
        except NotADirectoryError:
            raise UserError(f"store={folder}: is a file; give the folder of a store") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); make the store again") from None
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise UserError(f"{path}: is no manifest of a feature store; give the folder that index wrote")
        if (version := value.pop("version", None)) != VERSION:
            raise UserError(f"{path}: version {version}, this release reads {VERSION}; make the store again")
        if value.pop("xxh3", None) != _hash(value):
            raise UserError(f"{path}: is not as it was written; make the store again")
        try:
            files = {name: ArrayFile(**one) for name, one in value.pop("files").items()}
            return cls(files=files, **value)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: lacks a part or has one too many ({error}); make the store again") from None


def _hash(value: dict[str, Any]) -> str:
    """Return the XXH3-128 of plain values."""
    return xxhash.xxh3_128(json.dumps(value, sort_keys=True).encode()).hexdigest()


def partial_folder(store: Path) -> Path:
    """Return where a store is while it is made."""
    store = store.resolve()
    return store.with_name(f"{store.name}.partial") if store.name else store / ".partial"


def _no_store(folder: Path) -> UserError:
    if partial_folder(folder).is_dir():
        return UserError(f"store={folder}: was begun and is not finished; run the same index command again to go on")
    what = "is no feature store (it has no manifest.json)" if folder.exists() else "no such folder"
    return UserError(f"store={folder}: {what}; make one with python -m sae_lightning.index sae=... store={folder}")


def checksum(path: Path) -> str:
    """Return the XXH3-128 of a file, read in blocks."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def checksums(folder: Path, names: Iterable[str], show: bool = True) -> dict[str, str]:
    """Return the checksum of each array of a folder."""
    names = list(names)
    sizes = [(folder / f"{name}.npy").stat().st_size for name in names]
    out = {}
    with progress("checksums", sum(sizes), show) as advance:
        for name, size in zip(names, sizes, strict=True):
            out[name] = checksum(folder / f"{name}.npy")
            advance(size, name)
    return out
