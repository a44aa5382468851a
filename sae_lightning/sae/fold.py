"""Folding: an SAE trained on normalised activations becomes one that reads and writes raw ones, and back."""

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
      1 (of several sites, norms that add up to 1) and feature i is multiplied by what it had. Where features compete
      (top-k and its kin) one common factor keeps the selection as it was; after training with a unit-norm decoder all
      norms are 1 all the same.

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
    if sae.layer_norm:
        _check_does_nothing(normaliser, "fold")
    if normaliser.mode == "layer_norm":
        out.layer_norm = True
    else:
        _fold_affine(out, normaliser)
    _to_unit_norm(out)
    out.metadata, out.sample = {}, None
    return out.to(dtype).eval()


@torch.no_grad()
def unfold(sae: SparseAutoencoder, normaliser: Normaliser) -> SparseAutoencoder:
    """Return a new SAE for normalised rows: ``unfolded(x_n) = normaliser.apply_output(sae(normaliser.undo(x_n)))``.

    The inverse of ``fold``: folding it again with the same normaliser gives an SAE that does the same, feature by
    feature, whatever ``sae`` was trained with. Activations are not rescaled by decoder norms, which are 1 (where
    features compete, on average): rescaling would choose other features where the norms differ.

    Computed in float64, returned in the dtype of ``sae`` in eval mode. Raises UserError for an SAE that
    layer-normalises its input under a normaliser that does anything but that, and the other way round.
    """
    dtype = sae.W_enc.dtype
    out = copy.deepcopy(sae).double()
    out.zero_grad(set_to_none=True)
    if out.rescale_acts_by_decoder_norm:
        out._scale_encoder_(out.decoder_norms())
        out.rescale_acts_by_decoder_norm = False
    if normaliser.mode == "layer_norm":
        if not sae.layer_norm:
            raise UserError(
                "unfold: this SAE was not trained on layer-normalised rows; use another normalise=, for example sqrt_d"
            )
        out.layer_norm = False
    elif sae.layer_norm:
        _check_does_nothing(normaliser, "unfold")
    else:
        _unfold_affine(out, normaliser)
    _to_unit_norm(out)
    out.metadata, out.sample = {}, None
    return out.to(dtype).eval()


def _to_unit_norm(sae: SparseAutoencoder) -> None:
    """Give features the units of a decoder of norm 1, in place; where they compete, one common factor."""
    alive, norms = sae.W_dec.norm(dim=1) > 0, sae.decoder_norms()
    if not sae.features_scale_freely:
        # Of all features, those of other processes too.
        total, count = sae.execution.feature_ranks.sum(torch.stack([norms[alive].sum(), alive.sum().to(norms)]))
        norms = (total / count.clamp(min=1)).expand_as(norms)
    sae.scale_features_(torch.where(alive, norms, 1.0))


def _check_does_nothing(normaliser: Normaliser, what: str) -> None:
    if normaliser.mode not in ("none", "centre") or normaliser.centre:
        raise UserError(
            f"{what}: this SAE layer-normalises its own input and can't follow normalisation {normaliser.mode!r} "
            f"(centre={normaliser.centre}); use normalise=layer_norm, or none with centre=false"
        )


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


def _unfold_affine(sae: SparseAutoencoder, normaliser: Normaliser) -> None:
    device = sae.W_enc.device
    mean, scale = normaliser.mean.to(device).double(), normaliser.scale.to(device).double()
    mean_out, scale_out = normaliser.mean_out.to(device).double(), normaliser.scale_out.to(device).double()
    if sae.subtract_b_dec and not (torch.equal(mean, mean_out) and torch.equal(scale, scale_out)):
        sae.subtract_b_dec = False
        sae.shift_input_(-sae.b_dec)
    if not sae.subtract_b_dec:
        sae.shift_input_(mean)
    sae.b_dec.copy_((sae.b_dec - mean_out) * scale_out)
    sae.W_enc.div_(scale[:, None])
    sae.W_dec.mul_(scale_out)
    if sae.W_skip is not None:
        sae.W_skip.div_(scale[:, None]).mul_(scale_out)
