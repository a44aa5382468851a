"""The resolved config as text in TensorBoard, so that a curve never loses its settings."""

from collections.abc import Mapping

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from sae_lightning.training.callbacks.base import loggers_of
from sae_lightning.training.module import SAEModule


class ConfigLog(L.Callback):
    """Write each lane's YAML under the ``config`` tag of TensorBoard's text page when training starts."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        for name, text in self.texts.items():
            fenced = "\n".join("    " + line for line in text.splitlines())
            for logger in loggers_of(trainer, pl_module, name):
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_text("config", fenced, trainer.global_step)
