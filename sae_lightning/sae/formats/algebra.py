"""The same function in other parameters: what a format wants differently and is equal by exact algebra."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.jumprelu import JumpReLUSAE
from sae_lightning.sae.kernels.select import floor_to

# JumpReLU keeps log(theta), which has no 0. Instead of a threshold of 0 or below under a ReLU ("z where z > 0") the
# smallest normal float32 serves: the only pre-activations between the two are subnormal, below 1.2e-38, which hardware
# that flushes them reads as 0 anyway; as a feature they are 0 to any tolerance.
SMALLEST_THETA = torch.finfo(torch.float32).tiny


@torch.no_grad()
def plain(sae: SparseAutoencoder, *, subtract_b_dec: bool | None = None) -> SparseAutoencoder:
    """Return a float32 copy on the CPU, in eval mode, without ``rescale_acts_by_decoder_norm``.

    Features and reconstructions stay what they are: decoder norms go into the encoder. subtract_b_dec: whether the copy
    reads ``x - b_dec``; the difference goes into the encoder's biases (a skip path then adds to b_dec). None: as it is.
    Computed in float64; weights that need no change keep their bits.
    """
    out = copy.deepcopy(sae).cpu()
    out.metadata = copy.deepcopy(sae.metadata)
    out = out.double()
    if out.rescale_acts_by_decoder_norm:
        out._scale_encoder_(out.decoder_norms())
        out.rescale_acts_by_decoder_norm = False
    if subtract_b_dec is not None and subtract_b_dec != out.subtract_b_dec:
        if subtract_b_dec:
            assert out.W_skip is None, "x W_skip would read x - b_dec too"
            out.shift_input_(out.b_dec.clone())
            out.subtract_b_dec = True
        else:
            out.subtract_b_dec = False
            out.shift_input_(-out.b_dec.clone())
    return out.float().eval()


@torch.no_grad()
def thresholds(sae: SparseAutoencoder) -> Float[Tensor, "d_sae"] | None:
    """Return what pre-activations are compared with (``z > t``), as float32 numbers that decide in the same way."""
    if isinstance(sae, BatchTopKSAE):
        # ReLU cuts below 0 all the same; a negative number means "not set" elsewhere.
        return floor_to(sae.threshold.cpu(), torch.float32).clamp(min=0).expand(sae.d_sae).clone()
    return sae.theta.detach().float().cpu() if isinstance(sae, JumpReLUSAE) else None


def log_theta(threshold: Float[Tensor, "d_sae"]) -> Float[Tensor, "d_sae"]:
    """Return ``log_theta`` in float64: ``exp`` of it, rounded to float32, is the threshold's every bit."""
    return threshold.double().clamp(min=SMALLEST_THETA).log()
