"""What every callback here starts from: typed access to the run's module."""

from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.loggers import Logger

from sae_lightning.activations import ActivationSource
from sae_lightning.core import ActivationBatch
from sae_lightning.training.datamodule import ActivationDataModule
from sae_lightning.training.module import SAEModule

Kind = TypeVar("Kind", bound=L.Callback)


class LaneCallback(L.Callback):
    """A callback that acts on the lanes of an SAEModule after each step; subclasses override ``after_step``."""

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        """Act after the optimiser has stepped; ``trainer.global_step`` counts finished steps."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SAEModule), "these callbacks belong to an SAEModule"
        self.after_step(trainer, pl_module, batch)


def find(trainer: L.Trainer, kind: type[Kind]) -> Kind | None:
    """Return the trainer's callback of a kind, or None."""
    callbacks: list[L.Callback] = getattr(trainer, "callbacks", [])
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def source_of(trainer: L.Trainer) -> ActivationSource:
    """Return the source that the run reads."""
    datamodule = getattr(trainer, "datamodule", None)
    assert isinstance(datamodule, ActivationDataModule), "an SAEModule trains on an ActivationDataModule"
    return datamodule.source


def scalars(trainer: L.Trainer, module: SAEModule, lane: str, values: dict[str, float]) -> None:
    """Send scalars to a lane's loggers.

    Goes straight to the loggers: Lightning's ``self.log`` costs more than a small SAE step.
    """
    for logger in loggers_of(trainer, module, lane):
        logger.log_metrics(values, step=trainer.global_step)


def lane_folder(run_dir: Path, module: SAEModule, lane: str) -> Path:
    """Return where what a lane writes goes: the run folder itself, or ``lanes/NAME`` in a bank."""
    return run_dir / "lanes" / lane if module.is_bank else run_dir


def loggers_of(trainer: L.Trainer, module: SAEModule, lane: str) -> list[Logger]:
    """Return a lane's own loggers: in a bank those that write below ``lanes/NAME``, so that curves lie side by side."""
    if not module.is_bank:
        return list(trainer.loggers)
    return [logger for logger in trainer.loggers if Path(logger.save_dir or "").name == lane]
