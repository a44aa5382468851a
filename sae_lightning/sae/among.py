"""An SAE's products with some of its features alone: cost follows their number, and nothing of d_sae is made."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, addmm

from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.kernels import RowTopK, pre_act_blocks, row_winners


def strongest(
    sae: SparseAutoencoder,
    x: Float[Tensor, "n d_in"],
    numbers: Int[Tensor, "m"],
    k: int,
    *,
    signed: bool = False,
    pre_acts: Float[Tensor, "n d_sae"] | None = None,
) -> tuple[Int[Tensor, "n best"], Bool[Tensor, "n best"]]:
    """Return, for each row, which k of the features ``numbers`` have the largest z (signed: in size).

    As places in ``numbers``, and whether each is one of the k: all are, unless other processes hold features that
    compete (``sae.sharding``; then a collective). Fewer where there are fewer. pre_acts: z of the same x, where it
    exists as a whole; else z goes by in blocks.
    """
    ranks = sae.execution.feature_ranks
    selector = RowTopK(k, signed)
    if not len(numbers):
        places, scores = numbers.new_empty(len(x), 0), sae.W_enc.new_empty(len(x), 0)
        return places, row_winners(scores, k, ranks)
    if pre_acts is not None:
        selector.add(pre_acts.detach().index_select(1, numbers), 0)
    else:
        norms = sae.decoder_norms().detach() if sae.rescale_acts_by_decoder_norm else None
        centred, dtype = sae._rows(x).centred, sae.W_enc.dtype
        for first, z in pre_act_blocks(centred, sae.W_enc, sae.b_enc, norms, sae.execution, dtype, numbers=numbers):
            selector.add(z, first)
    chosen = selector.chosen()
    places, scores = chosen.indices.view(len(x), -1), chosen.scores.view(len(x), -1).to(sae.W_enc.dtype)
    if ranks.alone:
        return places, torch.ones_like(places, dtype=torch.bool)
    return places, row_winners(scores.abs() if signed else scores, k, ranks)


def pre_acts_among(
    sae: SparseAutoencoder, x: Float[Tensor, "n d_in"], numbers: Int[Tensor, "m"]
) -> Float[Tensor, "n m"]:
    """Return z of the features ``numbers``, differentiable."""
    W = sae.W_enc.t().index_select(0, numbers)
    z = addmm(sae.b_enc.index_select(0, numbers), sae._rows(x).centred, W.t())
    return z * sae.decoder_norms().index_select(0, numbers) if sae.rescale_acts_by_decoder_norm else z


def decode_among(
    sae: SparseAutoencoder, values: Float[Tensor, "n m"], numbers: Int[Tensor, "m"]
) -> Float[Tensor, "n d_out"]:
    """Return what the features ``numbers`` write with activations ``values``; no bias, layer norm not undone."""
    if sae.rescale_acts_by_decoder_norm:
        values = values / sae.decoder_norms().index_select(0, numbers)
    return sae.over_shards(values @ sae.W_dec.index_select(0, numbers))
