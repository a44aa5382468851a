"""Safetensors files whose size is known before their content: the header first, then a stream of bytes."""

import json
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

# bfloat16 has no numpy type: its bits travel as int16.
_NUMPY = {"BF16": "<i2", "F16": "<f2", "F32": "<f4", "U16": "<u2", "U32": "<u4", "I64": "<i8", "U64": "<u8"}
_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
#: Headers are whole pages, so that data begin at one and can be mapped alone.
PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Column:
    """One tensor of a file: its safetensors dtype ("BF16", "U32", ...) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return prod(self.shape) * self.numpy_dtype.itemsize

    @property
    def numpy_dtype(self) -> "np.dtype[Any]":
        return np.dtype(_NUMPY[self.dtype])


def checksum(data: bytes | memoryview) -> int:
    """Return XXH3's 64 bits of some bytes: it finds what a disk does to them, at the speed of memory.

    CRC-32 at 3 GB/s would be a third of the work of reading a cache.
    """
    return xxhash.xxh3_64_intdigest(data)


def dtype_name(dtype: torch.dtype) -> str:
    """Return what safetensors calls a dtype."""
    return _NAMES[dtype]


def header(columns: Sequence[Column]) -> bytes:
    """Return the bytes before the data, a whole number of pages."""
    entries: dict[str, Any] = {}
    end = 0
    for column in columns:
        begin, end = end, end + column.n_bytes
        entries[column.name] = {"dtype": column.dtype, "shape": list(column.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    size = -(-(8 + len(text)) // PAGE) * PAGE - 8
    return struct.pack("<Q", size) + text.ljust(size)


def mapped_columns(path: Path) -> tuple[dict[str, NDArray[Any]], mmap.mmap]:
    """Return the columns of a file as views of a read-only map, and the map.

    Raises OSError when it is missing and ValueError when it is cut short or no such file.
    """
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        begin, entries = read_header(memory[: 1 << 16])
        columns = {}
        for name, entry in entries.items():
            shape = tuple(entry["shape"])
            flat = np.frombuffer(
                memory, np.dtype(_NUMPY[entry["dtype"]]), prod(shape), begin + entry["data_offsets"][0]
            )
            columns[name] = flat.reshape(shape)
    except (struct.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is no safetensors file ({error})") from error
    return columns, memory


def read_header(beginning: bytes) -> tuple[int, dict[str, Any]]:
    """Return (where the data begin, entries by name) from the first bytes of a file."""
    (length,) = struct.unpack_from("<Q", beginning, 0)
    if 8 + length > len(beginning):
        raise ValueError("cut short")
    return 8 + length, json.loads(beginning[8 : 8 + length])
