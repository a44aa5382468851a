"""What every callback here starts from: typed access to the run's module."""

from typing import Any, TypeVar

import lightning as L

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
    """Send scalars to every logger, prefixed with the lane's name where there are several lanes.

    Goes straight to the loggers: Lightning's ``self.log`` costs more than a small SAE step.
    """
    prefix = f"{lane}/" if len(module.lanes) > 1 else ""
    for logger in trainer.loggers:
        logger.log_metrics({prefix + name: value for name, value in values.items()}, step=trainer.global_step)
