"""The resolved config as text in TensorBoard, so that a curve never loses its settings."""

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger


class ConfigLog(L.Callback):
    """Write the run's YAML under the ``config`` tag of TensorBoard's text page when training starts."""

    def __init__(self, text: str) -> None:
        self.text = text

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                fenced = "\n".join("    " + line for line in self.text.splitlines())
                logger.experiment.add_text("config", fenced, trainer.global_step)
