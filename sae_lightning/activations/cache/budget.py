"""The disk budget: how much lies there, and whether more may be written. Asked before the first byte is."""

import shutil
from pathlib import Path

from sae_lightning.core import UserError

# What the file system, the manifests and other writers may take beside us.
_MARGIN = 64 << 20


class CacheTooBig(UserError):  # noqa: N818 - a refusal that a caller may answer by streaming
    """A cache that does not fit into its budget or onto its disk."""


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; those that vanish meanwhile count as nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def check_space(root: Path, need: int, max_bytes: int | None) -> None:
    """Raise CacheTooBig unless ``need`` more bytes fit into ``max_bytes`` for all of ``root``, and on its disk."""
    there = folder_bytes(root)
    if max_bytes is not None and there + need > max_bytes:
        raise CacheTooBig(
            f"data.cache_max_gb={max_bytes / 1e9:g}: the activation cache needs {_size(need)} more and {_size(there)} "
            f"lie in {root} already; make room (python -m sae_lightning.cache prune), raise data.cache_max_gb, or "
            "stream with data.cache=off"
        )
    free = shutil.disk_usage(root).free
    if need + _MARGIN > free:
        raise CacheTooBig(
            f"{root}: the activation cache needs {_size(need)} and the disk has {_size(free)} free; make room (python "
            "-m sae_lightning.cache prune), set another data.cache_dir, or stream with data.cache=off"
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.3g} MB"
