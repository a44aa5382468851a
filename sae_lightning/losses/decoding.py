"""Decoding a second time, from other features than the forward pass chose."""

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Features
from sae_lightning.sae import SparseAutoencoder


def decode_with_skip(
    sae: SparseAutoencoder, features: Features, x: Float[Tensor, "n d_in"]
) -> Float[Tensor, "n d_out"]:
    """Return what ``sae.forward(x)`` would have reconstructed from ``features``."""
    y_hat = sae.decode(features)
    if sae.W_skip is None:
        return y_hat
    if features.input_mean is None or features.input_std is None:
        return y_hat + (x - sae.b_dec if sae.subtract_b_dec else x) @ sae.W_skip
    x = (x - features.input_mean) / features.input_std
    return y_hat + features.input_std * ((x - sae.b_dec if sae.subtract_b_dec else x) @ sae.W_skip)
