"""Folding: an SAE trained on normalised activations becomes one that reads and writes raw ones."""

import copy

import torch

from sae_lightning.activations.normalise import Normaliser
from sae_lightning.core import UserError
from sae_lightning.sae.base import SparseAutoencoder


@torch.no_grad()
def fold(sae: SparseAutoencoder, normaliser: Normaliser) -> SparseAutoencoder:
    """Return a new SAE with ``folded(x) = normaliser.undo(sae(normaliser.apply(x)))`` for raw rows x, in eval mode.

    With ``x_n = (x - m) s`` and ``y = y_n / s' + m'``:

    - ``W_enc <- s W_enc``, ``W_dec <- W_dec / s'``, ``b_dec <- m' + b_dec / s'``, ``W_skip <- s W_skip / s'``
    - an SAE that subtracts b_dec goes on doing so where input and output statistics agree: no digits are lost far from
      the origin. Elsewhere ``b_enc <- b_enc - (m + b_dec / s) s W_enc``.
    - layer norm is no affine map: the folded SAE does it itself (``layer_norm=True``).
    - decoder norms: rescaled activations become ordinary ones. Then features take raw units: row i of W_dec gets norm
      1 and feature i is multiplied by what it had. Where features compete (top-k and its kin) one common factor keeps
      the selection as it was; after training with a unit-norm decoder all norms are 1 all the same.

    Thresholds follow their features. Computed in float64, returned in the dtype of ``sae``. Raises UserError for an SAE
    that layer-normalises its input already under a normaliser that does something.
    """
    dtype = sae.W_enc.dtype
    out = copy.deepcopy(sae)
    out.zero_grad(set_to_none=True)
    out = out.double()
    if out.rescale_acts_by_decoder_norm:
        out._scale_encoder_(out.decoder_norms())
        out.rescale_acts_by_decoder_norm = False
    if sae.layer_norm and (normaliser.mode not in ("none", "centre") or normaliser.centre):
        raise UserError(
            f"fold: this SAE layer-normalises its own input and can't follow normalisation {normaliser.mode!r} "
            f"(centre={normaliser.centre}); use mode=none, centre=false"
        )
    if normaliser.mode == "layer_norm":
        out.layer_norm = True
    else:
        _fold_affine(out, normaliser)
    norms = out.W_dec.norm(dim=1)
    alive = norms > 0
    if alive.any():
        if not out.features_scale_freely:
            norms = norms[alive].mean().expand_as(norms)
        out.scale_features_(torch.where(norms > 0, norms, 1.0))
    out.metadata, out.sample = {}, None
    return out.to(dtype).eval()


def _fold_affine(sae: SparseAutoencoder, normaliser: Normaliser) -> None:
    device = sae.W_enc.device
    mean, scale = normaliser.mean.to(device).double(), normaliser.scale.to(device).double()
    mean_out, scale_out = normaliser.mean_out.to(device).double(), normaliser.scale_out.to(device).double()
    sae.W_enc.mul_(scale[:, None])
    sae.W_dec.div_(scale_out)
    if sae.W_skip is not None:
        sae.W_skip.mul_(scale[:, None]).div_(scale_out)
    read_from = mean + sae.b_dec / scale if sae.subtract_b_dec else mean
    sae.b_dec.copy_(mean_out + sae.b_dec / scale_out)
    if sae.subtract_b_dec and torch.equal(read_from, sae.b_dec):
        return
    sae.subtract_b_dec = False
    sae.shift_input_(-read_from)
