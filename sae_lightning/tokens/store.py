"""A corpus of tokens on disk, opened without being read."""

import hashlib
import logging
import mmap
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.core.locks import file_lock
from sae_lightning.tokens.disk import disk_errors
from sae_lightning.tokens.manifest import Manifest, hashes_path, offsets_path
from sae_lightning.tokens.scan import bad_id, check_ids, hash_tokens, write_hashes, write_starts
from sae_lightning.tokens.wheels import cache_dir

logger = logging.getLogger(__name__)

_SAMPLE_BLOCKS = 64
_SAMPLE_BYTES = 1 << 16


class TokenStore:
    """Token ids in one binary file, little-endian uint16 or uint32, in which a separator id ends every document.

    A *token index* is a position in that file, separators included: int64, 0-based, so that going back from an index
    to its token is one read. ``starts [n_documents + 1]`` are the document starts: document i is
    ``ids[starts[i] : starts[i + 1] - 1]``. It lies beside the file (``FILE.offsets.npy``) or, for a file that came
    without, is found by one pass over it and kept in the cache; likewise the document hashes. Both are memory-mapped.

    The last document may lack its separator. Documents may be empty.

    Raises UserError: no such file, empty, a size that is no multiple of the id's, a manifest that contradicts the
    file or the arguments, and no manifest without ``dtype`` and ``separator``.
    """

    def __init__(self, path: Path, dtype: np.dtype, separator: int, manifest: Manifest | None) -> None:
        self.path = path
        self.dtype = dtype
        self.separator = separator
        self.manifest = manifest
        self.n_positions = path.stat().st_size // dtype.itemsize
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            # Windows are read in random order: reading ahead would fetch 128 KiB for every one of them.
            memory.madvise(mmap.MADV_RANDOM)
        self._ids: NDArray = np.frombuffer(memory, dtype=dtype)

    @classmethod
    def open(
        cls,
        path: str | Path,
        dtype: Literal["uint16", "uint32"] | None = None,
        separator: int | None = None,
    ) -> "TokenStore":
        path = Path(path).expanduser()
        try:
            with open(path, "rb") as file:
                size = file.seek(0, 2)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be opened ({error.strerror}); data.path must name a binary token file"
            ) from error
        manifest = Manifest.load(path)
        name = dtype or (manifest.dtype if manifest else None)
        chosen = separator if separator is not None else (manifest.separator if manifest else None)
        if name is None or chosen is None:
            missing = [f"data.{key}" for key, value in (("dtype", name), ("separator", chosen)) if value is None]
            raise UserError(f"{path}: has no manifest {path.name}.json beside it; give {' and '.join(missing)}")
        if manifest and (manifest.dtype, manifest.separator) != (name, chosen):
            raise UserError(
                f"{path}: data.dtype={name}, data.separator={chosen} contradict its manifest ({manifest.dtype}, "
                f"{manifest.separator}); leave them out"
            )
        if name not in ("uint16", "uint32"):
            raise UserError(f"{path}: data.dtype={name!r}: must be uint16 or uint32")
        kind = np.dtype(name).newbyteorder("<")
        if not 0 <= chosen <= np.iinfo(kind).max:
            raise UserError(f"{path}: data.separator={chosen}: must be an id that {name} can hold")
        if size == 0:
            raise UserError(f"{path}: is empty; a token file needs at least one document")
        if size % kind.itemsize:
            raise UserError(f"{path}: {size} bytes is no whole number of {name} ids; it is cut off or of another dtype")
        if manifest and manifest.positions * kind.itemsize != size:
            raise UserError(
                f"{path}: {size} bytes, its manifest says {manifest.positions * kind.itemsize}; make the file again"
            )
        return cls(path, kind, chosen, manifest)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The start of every document and, last, the end: [n_documents + 1], memory-mapped."""
        beside = offsets_path(self.path)
        if self.manifest and beside.exists():
            starts = _map(beside)
            if self._starts_fit(starts):
                return starts
            logger.warning("%s: does not fit its token file, finding the documents again", beside)
        path = self._derived("starts")
        with disk_errors(path), file_lock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                write_starts(self.path, self.dtype, self.separator, path)
        return _map(path)

    @cached_property
    def document_hashes(self) -> NDArray[np.uint64]:
        """``hash_tokens`` of every document: [n_documents], memory-mapped."""
        beside = hashes_path(self.path)
        if self.manifest and beside.exists():
            hashes = _map(beside)
            if hashes.shape == (self.n_documents,) and hashes.dtype == np.uint64:
                return hashes
            logger.warning("%s: does not fit its token file, hashing the documents again", beside)
        starts = self.starts
        path = self._derived("hashes")
        with disk_errors(path), file_lock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                write_hashes(self.path, self.dtype, starts, path)
        return _map(path)

    @property
    def n_documents(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def n_tokens(self) -> int:
        """Tokens without the separators."""
        return int(self.starts[-1]) - self.n_documents

    def document(self, i: int) -> NDArray:
        """Return the ids of document ``i``, a view of the file in its own dtype."""
        return self._ids[self.starts[i] : self.starts[i + 1] - 1]

    def document_hash(self, i: int) -> int:
        return hash_tokens(self.document(i))

    def take(self, token_index: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the ids at these positions, in the shape of ``token_index``."""
        return self._ids[token_index].astype(np.int64)

    def locate(self, token_index: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (text number, position inside the text) of token indices; -1 stays (-1, -1)."""
        index = np.asarray(token_index, dtype=np.int64)
        if index.size and (index.min() < -1 or index.max() >= self.n_positions):
            raise IndexError(f"token index outside 0..{self.n_positions - 1}")
        text = np.searchsorted(self.starts, index, side="right").astype(np.int64) - 1
        return text, np.where(text >= 0, index - self.starts[np.maximum(text, 0)], -1)

    def check_vocab(self, vocab_size: int) -> None:
        """Raise a UserError naming the first id that is neither below ``vocab_size`` nor the separator."""
        if self.manifest and self.manifest.max_token_id < vocab_size:
            return
        check_ids(self.path, self.dtype, self.separator, vocab_size)
        if self.manifest:
            raise bad_id(self.path, self.manifest.max_token_id, "in its manifest", vocab_size, self.separator)

    def identity(self) -> str:
        """Return what names the content: the manifest's SHA-256, or a digest of the size and of 64 sampled blocks."""
        if self.manifest:
            return f"tokens-{self.manifest.sha256}"
        size = self.path.stat().st_size
        digest = hashlib.sha256(f"{size} {self.dtype} {self.separator}".encode())
        with open(self.path, "rb") as file:
            for block in range(_SAMPLE_BLOCKS):
                file.seek(max(0, size - _SAMPLE_BYTES) * block // (_SAMPLE_BLOCKS - 1))
                digest.update(file.read(_SAMPLE_BYTES))
        return f"raw-{digest.hexdigest()}"

    def _derived(self, kind: str) -> Path:
        """Where the cache keeps what was found in a file that came without it; a changed file gets another place."""
        stat = self.path.stat()
        key = f"{self.path.resolve()} {stat.st_size} {stat.st_mtime_ns} {self.dtype} {self.separator}"
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        return cache_dir() / "tokens" / "derived" / f"{name}.{kind}.npy"

    def _starts_fit(self, starts: NDArray[np.int64]) -> bool:
        assert self.manifest is not None
        if starts.dtype != np.int64 or starts.shape != (self.manifest.documents + 1,):
            return False
        if starts[-1] != self.n_positions or starts[0] != 0:
            return False
        some = np.linspace(1, len(starts) - 1, num=min(len(starts) - 1, 256)).astype(np.int64)
        return bool((self._ids[starts[some] - 1] == self.separator).all())


def _map(path: Path) -> NDArray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it, it is made again") from error
