"""Lightning's view of one process among several: who writes checkpoints, and where all wait for each other."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from sae_lightning.core import Ranks
from sae_lightning.training.checkpoints import part_path


class RankStrategy(SingleDeviceStrategy):
    """One device for this process, one of ``ranks``; what is added up over ranks is the module's own business.

    Lightning's DDP wraps the module to average gradients while they are made, one all-reduce a bucket, and averages
    them by process; here they are weighted by rows and travel with figures and counts (``training.together``). So
    ``world_size`` stays 1 for Lightning, which then sends nothing of its own.

    Rank 0 writes the checkpoint. ``sharded``: each rank has another part of the SAE, so every rank writes its own
    beside it (``checkpoints.part_path``), and rank 0's, which makes the checkpoint whole, comes last.
    """

    def __init__(self, device: torch.device, ranks: Ranks, sharded: bool = False) -> None:
        super().__init__(device=device)
        self.ranks = ranks
        self.sharded = sharded
        self.global_rank = ranks.rank

    @property
    def is_global_zero(self) -> bool:
        return self.ranks.rank == 0

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write what this rank has to write. Every rank calls it, and none goes on before all is written."""
        io = self.checkpoint_io
        if self.sharded:
            if not self.is_global_zero:
                io.save_checkpoint(checkpoint, part_path(Path(filepath), self.ranks.rank), storage_options)
            self.ranks.wait()
        if self.is_global_zero:
            io.save_checkpoint(checkpoint, filepath, storage_options)
        self.ranks.wait()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path)
        return super().load_checkpoint(part_path(path, self.ranks.rank) if self.sharded else path, weights_only)
