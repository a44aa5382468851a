"""Remove the part of the decoder's gradient that would only change the length of its rows."""

import lightning as L

from sae_lightning.training.module import SAEModule


class GradientProjection(L.Callback):
    """``g_i <- g_i - (g_i . d_i) d_i / ||d_i||^2`` for every decoder row d_i, before clipping and the optimiser.

    Only for lanes whose decoder is kept at unit norm (``sae.unit_norm_decoder``): there the parallel part would be
    undone by the renormalisation, after Adam's moments had already been bent by it. Source: Bricken et al. 2023.
    The policy alone: ``FusedAdam`` does it.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        for (_, lane), group in zip(pl_module.every_lane(), pl_module.adam().param_groups, strict=True):
            group["project"] = lane.sae.unit_norm_decoder
