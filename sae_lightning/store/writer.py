"""Builds a store: a pass over the text, one through language model and SAE, a transpose; resumable at any moment."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from sae_lightning.core import Features, TokenBatch, UserError, write_json
from sae_lightning.core.files import fsync_folder
from sae_lightning.core.locks import file_lock
from sae_lightning.core.progress import progress
from sae_lightning.store import manifest as files
from sae_lightning.store.arrays import HEADER_BYTES, Appended, read_chunks, save
from sae_lightning.store.feature_store import FeatureStore
from sae_lightning.store.manifest import ArrayFile, StoreManifest, checksums, partial_folder
from sae_lightning.store.provenance import ARRAYS, Corpus, Provenance, id_dtype, write_provenance
from sae_lightning.store.transpose import index_dtype, write_columns, write_offsets

logger = logging.getLogger(__name__)

#: Window numbers in; the windows, which of their positions count [b, p], and the features of those, in order.
Encode = Callable[[list[int]], tuple[TokenBatch, Bool[Tensor, "b p"], Features]]

_JOURNAL = "journal.json"
_JOURNAL_SECONDS = 5.0
#: Arrays of the second pass, in the order they are written in.
_PAIRS = {"lengths": "<i4", "kept": "|b1", "csr.indices": "<i4", "csr.values": "<f4"}


@dataclass(frozen=True)
class Plan:
    """What a store is made of.

    key:     plain values that decide its content: the same key, the same bytes.
    facts:   what its readers want to know (see ``StoreManifest``).
    encode:  reads windows; called with ``unit`` of them at a time.
    """

    corpus: Corpus
    encode: Encode
    d_sae: int
    vocab_size: int
    unit: int
    key: dict[str, Any]
    facts: dict[str, Any]


def build_store(
    out: str | Path,
    plan: Plan,
    *,
    overwrite: bool = False,
    show: bool = True,
    journal_seconds: float = _JOURNAL_SECONDS,
) -> FeatureStore:
    """Build the store ``out`` and return it opened; the store there already is returned where its key is the same.

    Everything is written into ``OUT.partial/`` and renamed last. Killed at any moment, the same call goes on from the
    journal in there, and the final bytes are those of an unbroken build. Memory does not grow with the corpus.

    Raises UserError: another store or something else at ``out`` (unless ``overwrite``, which replaces a store and
    nothing else), texts that do not fit their tokens.
    """
    out = Path(out).expanduser().resolve()
    if os.path.ismount(out):
        raise UserError(f"store={out}: is where a disk is mounted, and can't be renamed into; give a folder below it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(out.with_name(f".{out.name}.lock")):
        folder, old = partial_folder(out), out.with_name(f".{out.name}.old")
        if old.exists() and not out.exists():  # killed between the two renames
            old.replace(out)
        if _is_there(out, plan.key, overwrite):
            return FeatureStore.open(out)
        shutil.rmtree(old, ignore_errors=True)
        _build(folder, plan, show, journal_seconds)
        if out.exists():
            out.replace(old)
        folder.replace(out)
        fsync_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    return FeatureStore.open(out)


def _is_there(out: Path, key: dict[str, Any], overwrite: bool) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / files.FILE).is_file():
        raise UserError(f"store={out}: exists and is no feature store; give another folder")
    try:
        same = StoreManifest.load(out).key == _as_json(key)
        if same and overwrite:
            FeatureStore.open(out).verify(show=False)
    except UserError as error:
        if not overwrite:
            raise
        logger.warning("%s; it is made again", error)
        return False
    if same:
        logger.info("%s: is already there", out)
        return True
    if not overwrite:
        raise UserError(
            f"store={out}: holds another store (another SAE, text, mask or number of tokens); give another folder or "
            "overwrite=true"
        )
    return False


def _as_json(key: dict[str, Any]) -> Any:
    """Return plain values as they come back from a file."""
    return json.loads(json.dumps(key))


def _build(folder: Path, plan: Plan, show: bool, journal_seconds: float) -> None:
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".*.tmp"):  # of a write that was killed
        left.unlink()
    if (folder / files.FILE).is_file():
        if StoreManifest.load(folder).key == _as_json(plan.key):  # killed before it was renamed
            _tidy(folder)
            return
        (folder / files.FILE).unlink()
    state = _journal(folder, plan.key)
    if state.get("provenance"):
        found = Provenance(**state["provenance"])
    else:
        found = write_provenance(folder, plan.corpus, plan.vocab_size, show)
        state = {"key": plan.key, "provenance": vars(found), "windows": 0, **dict.fromkeys(_PAIRS, 0)}
        write_json(folder / _JOURNAL, state)
    state = _write_pairs(folder, plan, state, show, journal_seconds)
    assert state["lengths"] == found.n_tokens, "both passes read the same tokens"
    nnz = state["csr.values"]
    if index_dtype(nnz) != np.dtype("<i4"):
        _widen(folder, nnz)
    write_offsets(folder / "lengths.npy", folder / "csr.offsets.npy", nnz)
    stats = write_columns(folder, plan.d_sae, nnz, show)
    for name, values in vars(stats).items():
        save(folder / f"stats.{name}.npy", values)
    _finish(folder, plan, found, state, show)


def _journal(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Return what a killed build wrote down, nothing where it was of another store."""
    try:
        state = json.loads((folder / _JOURNAL).read_text(encoding="utf-8"))
        if state["key"] == _as_json(key):
            return state
        logger.warning("%s: was begun with other settings; starting again", folder)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _write_pairs(folder: Path, plan: Plan, state: dict[str, Any], show: bool, every: float) -> dict[str, Any]:
    n_windows, unit = plan.corpus.n_windows, plan.unit
    out = {name: Appended(folder / f"{name}.npy", kind, state[name]) for name, kind in _PAIRS.items()}
    if 0 < state["windows"] < n_windows:
        logger.info("%s: going on after %s of %s windows", folder, f"{state['windows']:,}", f"{n_windows:,}")
    began, before, last = time.monotonic(), state["lengths"], time.monotonic()

    def journal(windows: int) -> dict[str, Any]:
        for file in out.values():
            file.sync()
        now = {**state, "windows": windows, **{name: file.length for name, file in out.items()}}
        write_json(folder / _JOURNAL, now)
        return now

    try:
        with progress("features", n_windows, show) as advance:
            advance(state["windows"])
            for first in range(state["windows"], n_windows, unit):
                numbers = list(range(first, min(first + unit, n_windows)))
                _append(out, *plan.encode(numbers))
                speed = (out["lengths"].length - before) / max(time.monotonic() - began, 1e-9)
                advance(len(numbers), f"{out['lengths'].length:,} tokens, {speed:,.0f} tokens/s")
                if time.monotonic() - last >= every:
                    journal(numbers[-1] + 1)
                    last = time.monotonic()
        return journal(n_windows)
    finally:
        for file in out.values():
            file.close()


def _append(out: dict[str, Appended], batch: TokenBatch, keep: Bool[Tensor, "b p"], features: Features) -> None:
    """Append the features of some windows; tokens that the mask leaves out have none."""
    real = ((batch.token_index >= 0) & batch.mask).numpy()
    kept = keep.cpu().numpy()
    assert not (kept & ~real).any(), "only real tokens count"
    features = features.sparse()
    assert features.indices is not None
    assert features.offsets is not None
    offsets = features.offsets.cpu().numpy()
    indices, values = features.indices.cpu().numpy(), features.values.float().cpu().numpy()
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    inside = np.diff(indices) <= 0
    if inside.any() and (inside & (np.diff(rows) == 0)).any():
        order = np.lexsort((indices, rows))
        indices, values = indices[order], values[order]
    lengths = np.zeros(int(real.sum()), np.int32)
    lengths[kept[real]] = np.diff(offsets)
    out["lengths"].append(lengths)
    out["kept"].append(kept[real])
    out["csr.indices"].append(indices)
    out["csr.values"].append(values)


def _widen(folder: Path, nnz: int) -> None:
    """Write feature numbers as int64: from 2^31 pairs on scipy wants them like the offsets."""
    wide = Appended(folder / "wide.npy", index_dtype(nnz))
    for part in read_chunks(folder / "csr.indices.npy", "<i4", 1 << 22):
        wide.append(part)
    wide.sync()
    wide.close()
    (folder / "wide.npy").replace(folder / "csr.indices.npy")


def _finish(folder: Path, plan: Plan, found: Provenance, state: dict[str, Any], show: bool) -> None:
    nnz, pairs = state["csr.values"], str(index_dtype(state["csr.values"]).str)
    n_tokens, n_texts = found.n_tokens, found.n_texts
    lengths = {
        "token_ids": (id_dtype(plan.vocab_size).str, n_tokens),
        **{name: (kind, n_tokens) for name, kind in ARRAYS.items() if name in ("text_index", "position", "ends")},
        "text_starts": ("<i8", n_texts + 1),
        "document": ("<i8", n_texts),
        "texts": ("|u1", _items(folder / "texts.npy", 1)),
        "texts.starts": ("<i8", n_texts + 1),
        "meta": ("|u1", _items(folder / "meta.npy", 1)),
        "meta.starts": ("<i8", n_texts + 1),
        "kept": ("|b1", n_tokens),
        "csr.offsets": (pairs, n_tokens + 1),
        "csr.indices": (pairs, nnz),
        "csr.values": ("<f4", nnz),
        "csc.offsets": (pairs, plan.d_sae + 1),
        "csc.indices": (pairs, nnz),
        "csc.values": ("<f4", nnz),
        "stats.count": ("<i8", plan.d_sae),
        "stats.total": ("<f8", plan.d_sae),
        "stats.squares": ("<f8", plan.d_sae),
        "stats.largest": ("<f4", plan.d_sae),
    }
    sums = checksums(folder, lengths, show)
    kept = np.load(folder / "kept.npy", mmap_mode="r", allow_pickle=False)
    StoreManifest(
        key=plan.key,
        facts=plan.facts,
        n_tokens=n_tokens,
        n_kept=int(np.count_nonzero(kept)),
        n_texts=n_texts,
        d_sae=plan.d_sae,
        nnz=nnz,
        files={name: ArrayFile(kind, length, sums[name]) for name, (kind, length) in lengths.items()},
    ).save(folder)
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Remove what a finished store does not need."""
    for name in (_JOURNAL, "lengths.npy"):
        (folder / name).unlink(missing_ok=True)


def _items(path: Path, itemsize: int) -> int:
    return (path.stat().st_size - HEADER_BYTES) // itemsize
