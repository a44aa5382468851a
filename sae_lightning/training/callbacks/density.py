"""The histogram of feature densities: how many features fire how often."""

from typing import Annotated

import lightning as L
import torch
from annotated_types import Ge
from lightning.pytorch.loggers import TensorBoardLogger

from sae_lightning.core import ActivationBatch
from sae_lightning.training.callbacks.base import LaneCallback, loggers_of, scalars
from sae_lightning.training.module import SAEModule


class DensityHistogram(LaneCallback):
    """Every ``every_n_steps`` steps write ``sparsity/log10_density`` to TensorBoard.

    Density is the share of tokens since the last histogram on which a feature was active; features that never fired
    are drawn at -10. ``sparsity/dense_share`` is the share of features with a density above 10 %.
    """

    def __init__(self, every_n_steps: Annotated[int, Ge(1)] = 100) -> None:
        self.every_n_steps = every_n_steps

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        for name, lane in module.each_lane():
            density = lane.take_density()
            if density is None:
                continue
            scalars(trainer, module, name, {"sparsity/dense_share": float((density > 0.1).float().mean())})
            logs = torch.log10(density.clamp_min(1e-10)).float().cpu()
            for logger in loggers_of(trainer, module, name):
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_histogram("sparsity/log10_density", logs, trainer.global_step, bins=60)  # pyright: ignore[reportArgumentType]
