"""From tokens' features to features' tokens, in bounded memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sae_lightning.core.progress import progress
from sae_lightning.store.arrays import HEADER_BYTES, Appended, header, read_chunks, save

#: Pairs that are held at once: 8 bytes each, and their transpose; and tokens, where few of them have any.
_CHUNK = 1 << 22
_TOKENS = 1 << 20


@dataclass(frozen=True)
class FeatureStats:
    """Of each feature over the tokens that count: firings, sum and sum of squares of its activations, the largest
    absolute value.

    [d_sae] each: int64, float64, float64, float32 (0 for a feature that never fired).
    """

    count: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    largest: NDArray[np.float32]


def index_dtype(nnz: int) -> np.dtype:
    """Return the integer type of a store's indices and offsets: one for both, so that scipy copies nothing."""
    return np.dtype("<i4" if nnz < 2**31 else "<i8")


def write_offsets(lengths: Path, out: Path, nnz: int) -> None:
    """Write the cumulative sum of a file of int32 lengths, begun with 0."""
    file = Appended(out, index_dtype(nnz))
    file.append([0])
    before = 0
    for part in read_chunks(lengths, "<i4", _CHUNK):
        ends = before + np.cumsum(part, dtype=np.int64)
        file.append(ends)
        before = int(ends[-1])
    file.sync()
    file.close()
    assert before == nnz, "the lengths do not add up to the pairs"


def write_columns(folder: Path, d_sae: int, nnz: int, show: bool = True) -> FeatureStats:
    """Write ``csc.*`` of a folder that holds ``csr.*`` and return each feature's statistics.

    A counting sort in chunks of tokens: the place of every feature's run is known from its count, and a chunk's runs
    are written there. Only a chunk and its transpose are in memory. Doing it again writes the same bytes.
    """
    counts = np.zeros(d_sae, np.int64)
    for part in read_chunks(folder / "csr.indices.npy", index_dtype(nnz), _CHUNK):
        counts += np.bincount(part, minlength=d_sae)
    starts = np.concatenate([[0], np.cumsum(counts)])
    save(folder / "csc.offsets.npy", starts, index_dtype(nnz))
    total, squares = np.zeros(d_sae), np.zeros(d_sae)
    largest = np.zeros(d_sae, np.float32)
    place = starts[:-1].copy()
    kinds = {"indices": index_dtype(nnz), "values": np.dtype("<f4")}
    files = {name: os.open(folder / f"csc.{name}.npy", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644) for name in kinds}
    try:
        for name, kind in kinds.items():
            os.truncate(files[name], HEADER_BYTES + nnz * kind.itemsize)
            os.pwrite(files[name], header(kind, nnz), 0)
        with progress("features to tokens", nnz, show) as advance:
            for first, chunk in _chunks(folder, d_sae, nnz):
                columns = chunk.tocsc()
                ids = columns.indices.astype(kinds["indices"]) + kinds["indices"].type(first)
                values = columns.data
                fired = np.flatnonzero(np.diff(columns.indptr))
                begins, ends = columns.indptr[fired], columns.indptr[fired + 1]
                wide = values.astype(np.float64)
                total[fired] += np.add.reduceat(wide, begins)
                squares[fired] += np.add.reduceat(wide * wide, begins)
                largest[fired] = np.maximum(largest[fired], np.maximum.reduceat(np.abs(values), begins))
                for feature, begin, end in zip(fired.tolist(), begins.tolist(), ends.tolist(), strict=True):
                    at = int(place[feature])
                    _pwrite(files["indices"], ids[begin:end], HEADER_BYTES + at * ids.itemsize)
                    _pwrite(files["values"], values[begin:end], HEADER_BYTES + at * 4)
                place[fired] += ends - begins
                advance(chunk.nnz)
        for file in files.values():
            os.fsync(file)
    finally:
        for file in files.values():
            os.close(file)
    return FeatureStats(counts, total, squares, largest)


def _chunks(folder: Path, d_sae: int, nnz: int) -> Iterator[tuple[int, csr_matrix]]:
    """Yield (first token, rows from there on) in pieces of about ``_CHUNK`` pairs, whole tokens each."""
    lengths = np.zeros(0, np.int32)
    source = read_chunks(folder / "lengths.npy", "<i4", 1 << 18)
    first, more = 0, True
    with open(folder / "csr.indices.npy", "rb") as indices, open(folder / "csr.values.npy", "rb") as values:
        for file in (indices, values):
            file.seek(HEADER_BYTES)
        while more or len(lengths):
            while more and int(lengths.sum()) < _CHUNK and len(lengths) < _TOKENS:
                part = next(source, None)
                more = part is not None
                lengths = lengths if part is None else np.concatenate([lengths, part])
            ends = np.cumsum(lengths, dtype=np.int64)
            n = max(1, int(np.searchsorted(ends, _CHUNK, side="right"))) if len(ends) else 0
            if not n:
                return
            pairs = int(ends[n - 1])
            offsets = np.concatenate([[0], ends[:n]])
            data = np.fromfile(values, "<f4", pairs)
            ids = np.fromfile(indices, index_dtype(nnz), pairs)
            yield first, csr_matrix((data, ids, offsets), shape=(n, d_sae))
            first += n
            lengths = lengths[n:]


def _pwrite(file: int, values: NDArray, at: int) -> None:
    view = memoryview(values.tobytes())
    while len(view):
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
