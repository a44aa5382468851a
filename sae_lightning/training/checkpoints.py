"""Checkpoints that are whole or absent: atomic writes, checksums, and the search for the last good one."""

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from sae_lightning.core import UserError, atomic_path, file_sha256

logger = logging.getLogger(__name__)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def checksum_path(path: Path) -> Path:
    """Return where the checksum of a checkpoint stands."""
    return path.with_name(path.name + ".sha256")


def part_path(path: Path, rank: int) -> Path:
    """Return where a rank's own part of a checkpoint stands: beside that of rank 0, which is the checkpoint itself."""
    return path if rank == 0 else path.with_name(f"{path.name}.rank-{rank}")


def parts_of(path: Path) -> list[Path]:
    """Return the parts that other ranks wrote of a checkpoint; none where rank 0 has everything."""
    return sorted(p for p in path.parent.glob(f"{path.name}.rank-*") if p.suffix != ".sha256")


def no_space(error: BaseException) -> bool:
    """Tell whether an exception (or what caused it) says that a file could not grow any further."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class AtomicCheckpointIO(CheckpointIO):
    """Write beside, fsync, rename, then write the checksum the same way; read only what the checksum confirms.

    A checkpoint without a matching checksum file counts as torn: a process that died between the two renames left
    it, and the one before it is used. Loading is ``weights_only``: nothing in a checkpoint can execute code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        try:
            checksum_path(path).unlink(missing_ok=True)
            with atomic_path(path) as temporary:
                with open(temporary, "wb") as file:
                    torch.save(checkpoint, file)
                digest = file_sha256(temporary)
            with atomic_path(checksum_path(path)) as temporary:
                temporary.write_text(digest + "\n")
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(path.parent).free
            if not no_space(error) and free > 2**20:
                raise
            raise UserError(
                f"checkpoint {path}: the disk is full ({free / 2**20:.0f} MiB free); earlier checkpoints are whole; "
                f"free some space and continue with resume={path.parent.parent}"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        path = Path(path)
        problem = damage(path)
        if problem:
            raise UserError(f"checkpoint {path}: {problem}; resume from another one or start anew")
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        path = Path(path)
        for file in (path, *parts_of(path)):  # rank 0's first: without it there is no checkpoint
            checksum_path(file).unlink(missing_ok=True)
            file.unlink(missing_ok=True)


def damage(path: Path, parts: int = 1) -> str | None:
    """Return what is wrong with a checkpoint (the parts that other ranks wrote too), or None.

    parts: how many there must be at least, that of rank 0 counted.
    """
    files = dict.fromkeys([*(part_path(path, rank) for rank in range(parts)), *parts_of(path)])
    found = ((file, _damage(file)) for file in files)
    return next((p if file == path else f"{p} ({file.name})" for file, p in found if p is not None), None)


def _damage(path: Path) -> str | None:
    if not path.is_file():
        return "is missing"
    recorded = checksum_path(path)
    if not recorded.is_file():
        return "was not finished (it has no checksum)"
    if recorded.read_text().strip() != file_sha256(path):
        return "is torn or corrupt (its bytes do not match its checksum)"
    return None


def step_checkpoints(folder: Path) -> list[Path]:
    """Return the run's numbered checkpoints, oldest first."""
    return sorted(folder.glob("step-*.ckpt"))


def last_good(run_dir: Path) -> Path:
    """Return the newest whole checkpoint of a run; name each damaged one that is passed over."""
    folder = run_dir / "checkpoints"
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)  # a write that a crash cut short
    candidates = step_checkpoints(folder)
    orphans = {p.with_suffix("") for p in folder.glob("step-*.ckpt.sha256")} - set(candidates)
    for orphan in sorted(orphans):
        logger.warning("checkpoint %s is missing (only its checksum is left): passed over", orphan)
    # All of a run's have the same parts: one that lacks some has lost them.
    parts = max((1 + len(parts_of(path)) for path in candidates), default=1)
    for path in reversed(candidates):
        problem = damage(path, parts)
        if problem is None:
            return path
        logger.warning("checkpoint %s %s: passed over, trying the one before it", path, problem)
    raise UserError(
        f"resume={run_dir}: no whole checkpoint in {folder} ({len(candidates)} damaged); start the run anew"
    )


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` another name of ``source`` (or a copy where links are not possible), atomically."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
