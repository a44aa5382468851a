"""How much one unit of a feature's activation counts in a penalty: the norm of what it writes."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Features, UserError
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.kernels import gather_features, pattern_of

DecoderNorm = Literal["weighted", "detached", "plain"]


def penalty_weights(
    sae: SparseAutoencoder, mode: DecoderNorm, site_widths: tuple[int, ...] | None = None
) -> Float[Tensor, "d_sae"]:
    """Return the weight of each feature in a sparsity penalty.

    - ``weighted``: ``||d_i||``, so the SAE gains nothing by shrinking activations and growing decoder rows
      (Anthropic, April 2024)
    - ``detached``: the same number, without a gradient into the decoder
    - ``plain``:    1; meant for decoders that are kept at unit norm

    With ``site_widths`` (a crosscoder, whose sites lie side by side in a decoder row) the norm is
    ``sum_l ||d_i^l||``. An SAE that rescales activations by the decoder norm acts as if its rows had unit norm, so its
    weights are divided by ``||d_i||``.
    """
    W_dec = sae.W_dec
    if mode == "plain" or (site_widths is None and sae.rescale_acts_by_decoder_norm):
        return W_dec.new_ones(W_dec.shape[0])
    if mode == "detached":
        W_dec = W_dec.detach()
    if site_widths is None:
        return W_dec.norm(dim=-1)
    if sum(site_widths) != W_dec.shape[1]:
        raise UserError(
            f"site_widths={list(site_widths)}: must add up to the decoder's width {W_dec.shape[1]}; "
            "give one width per site that is written"
        )
    weights = torch.stack([part.norm(dim=-1) for part in W_dec.split(site_widths, dim=-1)]).sum(0)
    return weights / W_dec.norm(dim=-1) if sae.rescale_acts_by_decoder_norm else weights


def weigh(features: Features, weights: Float[Tensor, "d_sae"]) -> Float[Tensor, "..."]:
    """Return ``|f_i| w_i`` of every stored pair (sparse) or entry (dense)."""
    if features.indices is None or features.offsets is None:
        return features.values.abs() * weights
    # Not weights[indices]: on a GPU its gradient is summed in an order that changes from run to run.
    pattern = pattern_of(features.indices, features.offsets, features.d_sae)
    return features.values.abs() * gather_features(weights, pattern)
