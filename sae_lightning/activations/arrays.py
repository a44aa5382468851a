"""Files of activations, memory-mapped: rows by number, checked on the way."""

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import UserError, nearest
from sae_lightning.core.progress import progress

# bfloat16 has no numpy type: its bits travel as int16.
_SAFETENSORS_TYPES = {"F16": "<f2", "BF16": "<i2", "F32": "<f4", "F64": "<f8"}
_DTYPES = {"<f2": torch.float16, "<f4": torch.float32, "<f8": torch.float64}
_CHECK_BYTES = 64 << 20
_HASHED_BYTES = 1 << 16


class ActivationFile:
    """A matrix [n, d] of float16, bfloat16, float32 or float64 in a ``.npy`` or ``.safetensors`` file.

    Never loaded whole. ``rows(numbers)`` gives float32. Raises UserError, naming the file, when it is missing, cut
    short, no matrix, empty, or not floating point; when a row that is read holds NaN or infinity, naming the row.
    key: which tensor of a safetensors file (needed when it holds several matrices).
    """

    def __init__(self, path: str | Path, key: str | None = None) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise UserError(f"data.path={str(path)!r}: {what}; give a .npy or .safetensors file of rows [n, d_in]")
        match self.path.suffix:
            case ".npy":
                self._data, self.dtype = _open_npy(self.path)
            case ".safetensors":
                self._data, self.dtype = _open_safetensors(self.path, key)
            case suffix:
                raise UserError(f"data.path={str(path)!r}: unknown kind {suffix!r}; must be .npy or .safetensors")
        if self._data.ndim != 2:
            raise UserError(f"{self.path}: has shape {tuple(self._data.shape)}; activations must be rows [n, d_in]")
        if 0 in self._data.shape:
            raise UserError(f"{self.path}: is empty, shape {tuple(self._data.shape)}; needs at least one row")
        self.n, self.d = (int(size) for size in self._data.shape)

    def __len__(self) -> int:
        return self.n

    def rows(self, numbers: NDArray[np.integer]) -> Float[Tensor, "k d"]:
        """Return these rows in this order, as float32."""
        # Read in file order (one pass over the disk), then put them where they belong.
        order = np.argsort(numbers, kind="stable")
        out = torch.empty(len(numbers), self.d)
        out[torch.from_numpy(order)] = self._float32(self._data[np.asarray(numbers)[order]])
        self._check(out, np.asarray(numbers))
        return out

    def slice(self, first: int, last: int) -> Float[Tensor, "k d"]:
        """Return rows ``first`` to ``last - 1`` as float32."""
        out = self._float32(self._data[first:last])
        self._check(out, np.arange(first, first + len(out)))
        return out

    def check_finite(self) -> None:
        """Read every row once, with progress, and raise UserError at the first that holds NaN or infinity."""
        step = max(1, _CHECK_BYTES // (self.d * self._data.itemsize))
        with progress(f"checking {self.path.name}", self.n) as advance:
            for first in range(0, self.n, step):
                advance(len(self.slice(first, first + step)))

    def identity(self) -> str:
        """Return a cheap name of the content: shape, dtype, size, and a hash of the file's two ends."""
        digest = hashlib.sha256(f"{self.n} {self.d} {self.dtype} {self.path.stat().st_size}".encode())
        with self.path.open("rb") as file:
            digest.update(file.read(_HASHED_BYTES))
            file.seek(max(0, self.path.stat().st_size - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
        return "activations-" + digest.hexdigest()

    def _float32(self, values: NDArray[Any]) -> Tensor:
        native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
        if not native.flags.writeable:
            native = native.copy()  # torch will not take a view of a read-only map
        out = torch.from_numpy(native)
        return (out.view(torch.bfloat16) if self.dtype == torch.bfloat16 else out).float()

    def _check(self, rows: Tensor, numbers: NDArray[np.integer]) -> None:
        finite = torch.isfinite(rows).all(1)
        if not finite.all():
            row = int(numbers[(~finite).numpy()].min())
            raise UserError(
                f"{self.path}: row {row} holds NaN or infinity (as float32); repair the file or drop the row"
            )


def _open_npy(path: Path) -> tuple[NDArray[Any], torch.dtype]:
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise UserError(f"{path}: can't be read as .npy ({error}); write it again with numpy.save") from error
    dtype = _DTYPES.get(data.dtype.newbyteorder("<").str)
    if dtype is None:
        raise UserError(f"{path}: dtype {data.dtype}; must be float16, float32 or float64 (bfloat16: .safetensors)")
    return data, dtype


def _open_safetensors(path: Path, key: str | None) -> tuple[NDArray[Any], torch.dtype]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError(f"its header should have {length} bytes, the file has {size}")
            header = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        key = _choose(path, tensors, key)
        kind, shape = tensors[key]["dtype"], tuple(int(n) for n in tensors[key]["shape"])
        begin, end = (int(offset) for offset in tensors[key]["data_offsets"])
        if kind not in _SAFETENSORS_TYPES:
            raise UserError(f"{path}: tensor {key!r} has dtype {kind}; must be one of {', '.join(_SAFETENSORS_TYPES)}")
        if 8 + length + end > size:
            raise ValueError(f"it should have {8 + length + end} bytes, the file has {size}")
        if end - begin != math.prod(shape) * np.dtype(_SAFETENSORS_TYPES[kind]).itemsize:
            raise ValueError(f"{end - begin} bytes are no {kind} tensor of shape {shape}")
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path}: can't be read as safetensors ({error}); the file is torn, write it again") from error
    dtype = torch.bfloat16 if kind == "BF16" else _DTYPES[_SAFETENSORS_TYPES[kind]]
    if math.prod(shape) == 0:
        return np.empty(shape, dtype=_SAFETENSORS_TYPES[kind]), dtype
    return np.memmap(path, _SAFETENSORS_TYPES[kind], "r", offset=8 + length + begin, shape=shape), dtype


def _choose(path: Path, tensors: dict[str, Any], key: str | None) -> str:
    names = ", ".join(tensors) or "none"
    if key is not None:
        if key not in tensors:
            raise UserError(f"{path}: has no tensor {key!r}, only {names}{nearest(key, tensors)}")
        return key
    matrices = [name for name, entry in tensors.items() if len(entry["shape"]) == 2]
    if len(tensors) == 1:
        return next(iter(tensors))
    if len(matrices) != 1:
        raise UserError(f"{path}: holds {len(matrices)} matrices among its tensors ({names}); name one in data.key")
    return matrices[0]
