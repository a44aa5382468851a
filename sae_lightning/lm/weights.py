"""Which weights these are: a SHA-256 that is read once per file and remembered."""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from sae_lightning.core import file_sha256, write_json
from sae_lightning.core.locks import file_lock
from sae_lightning.tokens.wheels import cache_dir

logger = logging.getLogger(__name__)

_PATTERNS = ("*.safetensors", "pytorch_model*.bin")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a Hugging Face folder: safetensors where there are any, else pickled ones."""
    for pattern in _PATTERNS:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def folder_sha256(folder: Path) -> str:
    """Return a hash over the names and contents of a folder's weight files.

    The hash of each file is remembered in the cache under its path, size and time of change: gigabytes are read once.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(f"{file.name} {_remembered_sha256(file)}\n".encode())
    return digest.hexdigest()


def tensors_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash over named tensors as they lie in memory, for weights that come from no file."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _remembered_sha256(file: Path) -> str:
    real = file.resolve()
    stat = real.stat()
    key = f"{real} {stat.st_size} {stat.st_mtime_ns}"
    memory = cache_dir() / "lm" / "sha256.json"
    if (known := _read(memory).get(key)) is not None:
        return known
    if stat.st_size > 1 << 30:
        logger.info("hashing %s (%.1f GB, once)", real.name, stat.st_size / 1e9)
    value = file_sha256(real)
    with file_lock(memory.with_name(f".{memory.name}.lock")):
        write_json(memory, {**_read(memory), key: value})
    return value


def _read(memory: Path) -> dict[str, str]:
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
