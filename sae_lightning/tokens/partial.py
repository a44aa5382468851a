"""A token file in the making: appended to, journalled, and taken up again after a kill."""

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import file_sha256, write_json
from sae_lightning.core.files import fsync_folder
from sae_lightning.tokens.manifest import Manifest, hashes_path, offsets_path
from sae_lightning.tokens.scan import hash_tokens, raw_to_npy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """How much is written: whole documents only."""

    documents: int = 0
    tokens: int = 0
    positions: int = 0
    max_token_id: int = -1


class PartialTokenFile:
    """``FILE.partial/``: the ids, the document ends and the document hashes so far, and a journal of their lengths.

    The journal is written after the data it speaks of is on disk. Whoever opens the folder again cuts the files back
    to the journal and continues with document ``written.documents``; a journal of another ``key`` (other text,
    tokenizer or options) is dropped with its data. ``finish`` puts the sidecars and the manifest in place and renames
    the ids last, so that a token file that exists is whole.
    """

    def __init__(self, out: Path, key: dict[str, Any], journal_seconds: float) -> None:
        self.out = out
        self.key = key
        self.folder = partial_folder(out)
        self.dtype = np.dtype(key["dtype"]).newbyteorder("<")
        self._files = {name: self.folder / name for name in ("ids", "ends", "hashes")}
        self._journal = self.folder / "journal.json"
        self._every = journal_seconds
        self._last = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.written = self._resume()
        # Unbuffered: what a failed write leaves behind must not be tried again when the file is closed.
        self._open = {name: open(path, "ab", buffering=0) for name, path in self._files.items()}  # noqa: SIM115

    def _sizes(self, written: Written) -> dict[str, int]:
        return {
            "ids": written.positions * self.dtype.itemsize,
            "ends": written.documents * 8,
            "hashes": written.documents * 8,
        }

    def _resume(self) -> Written:
        try:
            journal = json.loads(self._journal.read_text(encoding="utf-8"))
            written = Written(**journal["written"])
            fits = journal["key"] == self.key and all(
                self._files[name].stat().st_size >= size for name, size in self._sizes(written).items()
            )
        except (OSError, ValueError, TypeError, KeyError):
            written, fits = Written(), False
        if not fits:
            if self._journal.exists():
                logger.warning("%s: was begun with other text, tokenizer or options; starting again", self.folder)
            self._journal.unlink(missing_ok=True)
            written = Written()
        for name, size in self._sizes(written).items():
            with open(self._files[name], "ab") as file:
                file.truncate(size)
        if written.documents:
            logger.info("%s: going on after %d documents, %d tokens", self.out, written.documents, written.tokens)
        return written

    def append(self, documents: Sequence[NDArray]) -> None:
        """Append whole documents, at least one (ids in the file's dtype, without separators)."""
        separator = np.array([self.key["separator"]], dtype=self.dtype)
        pieces = [piece for ids in documents for piece in (ids, separator)]
        ends = self.written.positions + np.cumsum([len(ids) + 1 for ids in documents])
        self._write("ids", np.concatenate(pieces).tobytes())
        self._write("ends", ends.astype("<i8").tobytes())
        self._write("hashes", np.array([hash_tokens(ids) for ids in documents], "<u8").tobytes())
        # Counted only now: a write that failed must not get into the journal.
        self.written = Written(
            documents=self.written.documents + len(documents),
            tokens=self.written.tokens + sum(len(ids) for ids in documents),
            positions=int(ends[-1]),
            max_token_id=max(self.written.max_token_id, *(int(ids.max()) for ids in documents if len(ids)), -1),
        )
        if time.monotonic() - self._last >= self._every:
            self.checkpoint()

    def _write(self, name: str, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            view = view[self._open[name].write(view) :]

    def checkpoint(self) -> None:
        """Make everything appended so far survive a kill."""
        for file in self._open.values():
            os.fsync(file.fileno())
        write_json(self._journal, {"key": self.key, "written": asdict(self.written)})
        self._last = time.monotonic()

    def finish(self, vocab_size: int) -> Manifest:
        """Turn the folder into the token file, its sidecars and its manifest."""
        self.checkpoint()
        self.close()
        # An older file of this name goes first: it must not be seen with sidecars of the new one.
        self.out.unlink(missing_ok=True)
        raw_to_npy(self._files["ends"], offsets_path(self.out), "<i8", leading=0)
        raw_to_npy(self._files["hashes"], hashes_path(self.out), "<u8")
        manifest = Manifest(
            dtype=self.key["dtype"],
            separator=self.key["separator"],
            **asdict(self.written),
            vocab_size=vocab_size,
            tokenizer_hash=self.key["tokenizer_hash"],
            source=self.key["source"],
            max_tokens=self.key["max_tokens"],
            sha256=file_sha256(self._files["ids"]),
        )
        manifest.save(self.out)
        self._files["ids"].replace(self.out)
        fsync_folder(self.out.parent)
        discard_partial(self.out)
        return manifest

    def close(self) -> None:
        for file in self._open.values():
            file.close()


def partial_folder(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def discard_partial(out: Path) -> None:
    """Remove what a run towards ``out`` has left behind."""
    shutil.rmtree(partial_folder(out), ignore_errors=True)
