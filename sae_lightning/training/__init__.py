"""Training: the LightningModule with its lanes, the DataModule, checkpoints and callbacks. Knows no config file."""

from sae_lightning.training.checkpoints import AtomicCheckpointIO, last_good
from sae_lightning.training.datamodule import ActivationDataModule
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import OptimSettings, SAEModule
from sae_lightning.training.optim import auto_learning_rate, learning_rate_factor

__all__ = [
    "ActivationDataModule",
    "AtomicCheckpointIO",
    "Lane",
    "OptimSettings",
    "SAEModule",
    "auto_learning_rate",
    "last_good",
    "learning_rate_factor",
]
