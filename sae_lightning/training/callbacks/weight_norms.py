"""How weights and gradients evolve: their norms, as curves and histograms."""

from typing import Annotated

import lightning as L
import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import ActivationBatch
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.training.callbacks.base import LaneCallback, scalars
from sae_lightning.training.module import SAEModule


class WeightNorms(LaneCallback):
    """Every ``every_n_steps`` steps log norms of encoder and decoder.

    ``weights/W_enc_norm`` and ``weights/W_dec_norm``: mean Euclidean norm of a feature's encoder and decoder
    direction; ``weights/<parameter>_grad``: norm of the whole gradient after projection and clipping;
    ``weights/enc_dec_cosine``: mean cosine between a feature's two directions.
    """

    def __init__(self, every_n_steps: Annotated[int, Ge(1)] = 50) -> None:
        self.every_n_steps = every_n_steps

    @torch.no_grad()
    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        for name, lane in module.each_lane():
            sae = lane.sae
            encoder, decoder = sae.W_enc.norm(dim=0), sae.W_dec.norm(dim=1)
            values = {
                "weights/W_enc_norm": _mean(sae, encoder),
                "weights/W_dec_norm": _mean(sae, decoder),
                "weights/b_enc_mean": _mean(sae, sae.b_enc),
                "weights/b_dec_norm": float(sae.b_dec.norm()),
            }
            if sae.d_in == sae.W_dec.shape[1]:
                cosine = (sae.W_enc.T * sae.W_dec).sum(1) / (encoder * decoder).clamp_min(1e-12)
                values["weights/enc_dec_cosine"] = _mean(sae, cosine)
            for parameter, tensor in sae.named_parameters():
                if tensor.grad is not None:
                    norm = tensor.grad.norm()
                    if parameter not in sae.without_features:
                        norm = sae.over_shards(norm.square()).sqrt()
                    values[f"weights/{parameter}_grad"] = float(norm)
            scalars(trainer, module, name, values)


def _mean(sae: SparseAutoencoder, values: Float[Tensor, "width"]) -> float:
    """Return the mean over all features, those of other processes too."""
    return float(sae.over_shards(values.sum())) / sae.d_sae
