"""What every callback here starts from: when it acts, and typed access to the run's module."""

from pathlib import Path
from typing import TypeVar

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] - protobuf's

from sae_lightning.activations import ActivationSource
from sae_lightning.core import ActivationBatch
from sae_lightning.training.datamodule import ActivationDataModule
from sae_lightning.training.module import SAEModule

Kind = TypeVar("Kind", bound=L.Callback)


class LaneCallback(L.Callback):
    """A callback that acts on the lanes of an SAEModule after some steps; subclasses override ``after_step``.

    A Trainer step holds many optimiser steps, so Lightning's own hooks come too seldom (see ``SAEModule``): the module
    calls ``after_step`` itself, after each step for which the callback is ``due``.

    every_n_steps: due at its multiples and at the last step; 0 is never.
    every_seconds: where set, it acts as well once that long has passed since it last acted, or since training started.
    """

    every_n_steps: int = 1
    every_seconds: float | None = None

    def due(self, step: int, total_steps: int) -> bool:
        """Tell whether to act after ``step`` (steps done) of ``total_steps``. Asked at every step: keep it cheap."""
        return self.every_n_steps > 0 and (step % self.every_n_steps == 0 or step == total_steps)

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        """Act after the optimiser has stepped; ``trainer.global_step`` counts finished steps; batch: the last one."""


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
    step = trainer.global_step
    for logger in loggers_of(trainer, module, lane):
        if isinstance(logger, TensorBoardLogger):
            # One event with all values: `add_scalar` makes an event of each, which takes ten times as long.
            pairs = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            logger.experiment.file_writer.add_summary(Summary(value=pairs), step)  # pyright: ignore[reportOptionalMemberAccess]
        else:
            logger.log_metrics(values, step=step)


def lane_folder(run_dir: Path, module: SAEModule, lane: str) -> Path:
    """Return where what a lane writes goes: the run folder itself, or ``lanes/NAME`` in a bank."""
    return run_dir / "lanes" / lane if module.is_bank else run_dir


def loggers_of(trainer: L.Trainer, module: SAEModule, lane: str) -> list[Logger]:
    """Return a lane's own loggers: in a bank those that write below ``lanes/NAME``, so that curves lie side by side."""
    if not module.is_bank:
        return list(trainer.loggers)
    return [logger for logger in trainer.loggers if Path(logger.save_dir or "").name == lane]
