"""The LightningModule: lanes, their summed loss, per-lane clipping, one elementwise optimiser."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from sae_lightning.core import ActivationBatch
from sae_lightning.training.lane import Lane
from sae_lightning.training.optim import schedule


@dataclass(frozen=True)
class OptimSettings:
    """Adam and the course of its rate: ``warmup`` and ``decay`` are shares of all steps. Each lane has its own."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = 1.0
    warmup: float = 0.05
    decay: float = 0.2
    final: float = 0.0


class SAEModule(L.LightningModule):
    """Lanes on one stream of activations.

    ``training_step`` sums the lanes' losses, so that each lane's gradients are those of its solo run; clipping is per
    lane and Adam is elementwise, so the weights are, too. A lane of a bank whose loss is no longer a number is dropped
    (``Lane.alive``) and the others go on. ``is_bank``: what each lane writes goes to a folder of its own. The frozen
    language model is no part of this module: it belongs to the data, and its weights never enter a checkpoint.

    Order in a step: backward -> callbacks (remove parallel gradient) -> clip -> optimiser -> callbacks (renormalise
    decoder -> count dead features -> log -> save).
    """

    def __init__(
        self,
        lanes: dict[str, Lane],
        settings: dict[str, OptimSettings],
        total_steps: int,
        *,
        bank: bool | None = None,
    ) -> None:
        super().__init__()
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps}: must be at least 1; raise the token budget")
        self.lanes = nn.ModuleDict(lanes)
        self.settings = settings
        self.total_steps = total_steps
        self.is_bank = len(lanes) > 1 if bank is None else bank

    def every_lane(self) -> list[tuple[str, Lane]]:
        """Return (name, lane) pairs, dropped lanes too: one parameter group of the optimiser each, in this order."""
        return [(name, lane) for name, lane in self.lanes.items() if isinstance(lane, Lane)]

    def each_lane(self) -> list[tuple[str, Lane]]:
        """Return (name, lane) pairs of the lanes that train."""
        return [(name, lane) for name, lane in self.every_lane() if lane.alive]

    def rate_of(self, name: str) -> float:
        """Return a lane's present learning rate."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return float(optimizer.param_groups[list(self.lanes).index(name)]["lr"])

    @property
    def progress(self) -> float:
        """Share of all steps done, in [0, 1]."""
        return min(1.0, self.global_step / self.total_steps)

    def on_fit_start(self) -> None:
        # Adam's moments of features without gradient decay into subnormal numbers, which CPUs compute ten times slower.
        torch.set_flush_denormal(True)

    def teardown(self, stage: str) -> None:
        # The setting is the process's: whoever trains from Python gets exact subnormals back.
        torch.set_flush_denormal(False)

    def training_step(self, batch: ActivationBatch, batch_idx: int) -> Tensor:
        losses = [lane.step(batch, self.progress) for _, lane in self.each_lane()]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        for name, lane in self.each_lane():
            limit = self.settings[name].clip
            lane.grad_norm = nn.utils.clip_grad_norm_(
                lane.sae.parameters(), max_norm=float("inf") if limit is None else limit
            )

    def configure_optimizers(self) -> Any:
        groups = [
            {
                "params": list(lane.sae.parameters()),
                "lr": self.settings[name].lr,
                "betas": self.settings[name].betas,
                "eps": self.settings[name].eps,
            }
            for name, lane in self.every_lane()
        ]
        optimizer = torch.optim.Adam(groups, fused=True)
        own = [self.settings[name] for name, _ in self.every_lane()]
        scheduler = schedule(optimizer, self.total_steps, [(s.warmup, s.decay, s.final) for s in own])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        for _, lane in self.every_lane():
            lane.alive = not self.is_bank or int(lane.first_bad_step) < 0  # dropped before a restart

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["torch_rng_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["torch_rng_state"].cpu())
