"""Passes over a whole token file in chunks: document starts, document hashes, the check of the vocabulary.

They read through a buffer instead of a memory map, so that a file larger than memory leaves nothing behind in it.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import UserError, atomic_path
from sae_lightning.core.progress import progress

_CHUNK = 1 << 22  # positions


def chunks(path: Path, dtype: np.dtype, description: str) -> Iterator[tuple[int, NDArray]]:
    """Yield (position of the first id, ids) over the whole file."""
    total = path.stat().st_size // dtype.itemsize
    with open(path, "rb") as file, progress(description, total) as advance:
        for first in range(0, total, _CHUNK):
            ids = np.fromfile(file, dtype=dtype, count=min(_CHUNK, total - first))
            yield first, ids
            advance(len(ids), f"{first + len(ids):,} of {total:,} tokens")


def write_starts(token_file: Path, dtype: np.dtype, separator: int, out: Path) -> None:
    """Write the document starts of ``token_file`` as an int64 ``.npy`` of n_documents + 1 entries.

    Document i is ``ids[starts[i] : starts[i + 1] - 1]``: the last position before the next start is its separator. The
    last entry is the number of positions, or one more when the last document has no separator after it.
    """
    total = token_file.stat().st_size // dtype.itemsize
    last = 0
    with tempfile.TemporaryDirectory(prefix=".starts-", dir=out.parent) as folder:
        raw = Path(folder) / "raw"
        with open(raw, "wb") as file:
            for first, ids in chunks(token_file, dtype, f"finding the documents of {token_file.name}"):
                ends = np.flatnonzero(ids == separator) + (first + 1)
                if len(ends):
                    last = int(ends[-1])
                    file.write(ends.astype("<i8").tobytes())
            if last < total:
                file.write(np.array(total + 1, "<i8").tobytes())
        raw_to_npy(raw, out, "<i8", leading=0)


def write_hashes(token_file: Path, dtype: np.dtype, starts: NDArray[np.int64], out: Path) -> None:
    """Write ``document_hash`` of every document as a uint64 ``.npy``."""
    n = len(starts) - 1
    with atomic_path(out) as temporary, open(token_file, "rb") as file:
        hashes = np.lib.format.open_memmap(temporary, mode="w+", dtype="<u8", shape=(n,))
        with progress(f"hashing the documents of {token_file.name}", float(starts[-1])) as advance:
            i = 0
            while i < n:
                # As many whole documents as fit a chunk, at least one.
                j = max(i + 1, int(np.searchsorted(starts, starts[i] + _CHUNK, side="right")) - 1)
                if starts[j] - starts[i] <= _CHUNK:
                    file.seek(int(starts[i]) * dtype.itemsize)
                    ids = np.fromfile(file, dtype=dtype, count=int(starts[j] - starts[i]))
                    for k in range(i, j):
                        hashes[k] = hash_tokens(ids[starts[k] - starts[i] : starts[k + 1] - 1 - starts[i]])
                else:
                    hashes[i] = _hash_long(file, dtype, int(starts[i]), int(starts[j]) - 1)
                advance(float(starts[j] - starts[i]), f"{j:,} of {n:,} documents")
                i = j
        hashes.flush()


def hash_tokens(ids: NDArray) -> int:
    """Return a 64-bit hash of a document's ids: BLAKE2b of their little-endian uint32 bytes, whatever the file's width.

    It depends on the ids alone, so the same text keeps its hash in every file, run and order.
    """
    return int.from_bytes(hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=8).digest(), "little")


def _hash_long(file: BinaryIO, dtype: np.dtype, start: int, end: int) -> int:
    """``hash_tokens`` of a document that is larger than a chunk."""
    digest = hashlib.blake2b(digest_size=8)
    file.seek(start * dtype.itemsize)
    for first in range(start, end, _CHUNK):
        digest.update(np.fromfile(file, dtype=dtype, count=min(_CHUNK, end - first)).astype("<u4").tobytes())
    return int.from_bytes(digest.digest(), "little")


def check_ids(token_file: Path, dtype: np.dtype, separator: int, vocab_size: int) -> None:
    """Raise a UserError naming the first id outside ``range(vocab_size)`` that is not the separator."""
    for first, ids in chunks(token_file, dtype, f"checking the ids of {token_file.name}"):
        if int(ids.max(initial=0)) < vocab_size:
            continue
        bad = np.flatnonzero((ids >= vocab_size) & (ids != separator))
        if len(bad):
            raise bad_id(token_file, int(ids[bad[0]]), f"at position {first + int(bad[0])}", vocab_size, separator)


def bad_id(token_file: Path, token: int, where: str, vocab_size: int, separator: int) -> UserError:
    return UserError(
        f"{token_file}: id {token} {where} is outside the language model's vocabulary of {vocab_size} (separator "
        f"{separator}); use the tokenizer of this language model, or correct data.dtype and data.separator"
    )


def raw_to_npy(raw: Path, out: Path, dtype: str, *, leading: int | None = None) -> None:
    """Write the 8-byte numbers of ``raw``, after ``leading`` where given, as a one-dimensional ``.npy``."""
    extra = 0 if leading is None else 1
    shape = (raw.stat().st_size // 8 + extra,)
    with atomic_path(out) as temporary, open(temporary, "wb") as target, open(raw, "rb") as file:
        np.lib.format.write_array_header_1_0(target, {"descr": dtype, "fortran_order": False, "shape": shape})
        if leading is not None:
            target.write(np.array(leading, dtype).tobytes())
        shutil.copyfileobj(file, target, 1 << 20)
