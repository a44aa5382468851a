"""Functions run in several processes that know each other (gloo on this machine's loopback)."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from sae_lightning.core import Ranks


def together(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """Return ``function(ranks, *arguments)`` of each of ``world`` processes, by rank.

    function: of a module's top level, since the processes import it; returns tensors and plain values.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_one, (world, folder, function, arguments), nprocs=world)  # pyright: ignore[reportPrivateImportUsage]
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _one(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        torch.save(function(Ranks.present(), *arguments), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
