"""Remove the part of the decoder's gradient that would only change the length of its rows."""

from typing import Any

import lightning as L

from sae_lightning.sae import remove_parallel_gradient
from sae_lightning.training.module import SAEModule


class GradientProjection(L.Callback):
    """``g_i <- g_i - (g_i . d_i) d_i / ||d_i||^2`` for every decoder row d_i, before clipping and the optimiser.

    Only for lanes whose decoder is kept at unit norm (``sae.unit_norm_decoder``): there the parallel part would be
    undone by the renormalisation, after Adam's moments had already been bent by it. Source: Bricken et al. 2023.
    """

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, SAEModule)
        for _, lane in pl_module.each_lane():
            if lane.sae.unit_norm_decoder:
                remove_parallel_gradient(lane.sae.W_dec)
