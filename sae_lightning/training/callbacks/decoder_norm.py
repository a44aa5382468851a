"""Bring decoder rows back to unit norm after every step."""

import lightning as L

from sae_lightning.training.module import SAEModule


class DecoderNorm(L.Callback):
    """``d_i <- d_i / ||d_i||`` after the optimiser's step and before anything is counted or saved.

    Only for lanes with ``sae.unit_norm_decoder``; those start at unit norm (``sae.initialise``), and a resumed run must
    not normalise again: rows done twice change in a bit. The policy alone: ``FusedAdam`` does it.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not when fit starts: a checkpoint's parameter groups, which are read after that, would win.
        assert isinstance(pl_module, SAEModule)
        for (_, lane), group in zip(pl_module.every_lane(), pl_module.adam().param_groups, strict=True):
            group["renormalise"] = lane.sae.unit_norm_decoder
