"""Bring decoder rows back to unit norm after every step."""

import lightning as L

from sae_lightning.core import ActivationBatch
from sae_lightning.sae import renormalise
from sae_lightning.training.callbacks.base import LaneCallback
from sae_lightning.training.module import SAEModule


class DecoderNorm(LaneCallback):
    """``d_i <- d_i / ||d_i||`` after the optimiser's step and before anything is counted or saved.

    A callback and not the module's own hook: Lightning runs that one after checkpoints are written, and a resumed run
    would then start from rows that were never normalised. Only for lanes with ``sae.unit_norm_decoder``; those start
    at unit norm (``sae.initialise``), and a resumed run must not normalise again: rows done twice change in a bit.
    """

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        for _, lane in module.each_lane():
            if lane.sae.unit_norm_decoder:
                renormalise(lane.sae.W_dec)
