"""How much one unit of a feature's activation counts in a penalty: the norm of what it writes."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Features
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.kernels import gather_features, pattern_of

DecoderNorm = Literal["weighted", "detached", "plain"]


def penalty_weights(sae: SparseAutoencoder, mode: DecoderNorm) -> Float[Tensor, "d_sae"]:
    """Return the weight of each feature in a sparsity penalty.

    - ``weighted``: ``sum_l ||d_i^l||`` over the sites written (one site: ``||d_i||``), so the SAE gains nothing by
      shrinking activations and growing decoder rows (Anthropic, April 2024; crosscoders, October 2024)
    - ``detached``: the same number, without a gradient into the decoder
    - ``plain``:    1; meant for decoders that are kept at unit norm

    1 as well for an SAE that rescales activations by the decoder norm: it acts as if that were 1.
    """
    if mode == "plain" or sae.rescale_acts_by_decoder_norm:
        return sae.W_dec.new_ones(sae.W_dec.shape[0])
    norms = sae.decoder_norms()
    return norms.detach() if mode == "detached" else norms


def weigh(features: Features, weights: Float[Tensor, "d_sae"]) -> Float[Tensor, "..."]:
    """Return ``|f_i| w_i`` of every stored pair (sparse) or entry (dense)."""
    if features.indices is None or features.offsets is None:
        return features.values.abs() * weights
    # Not weights[indices]: on a GPU its gradient is summed in an order that changes from run to run.
    pattern = pattern_of(features.indices, features.offsets, features.d_sae)
    return features.values.abs() * gather_features(weights, pattern)
