"""Features at inference, by a bfloat16 product wherever that provably selects the same ones."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lightning.core import Features
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.kernels import Above, Execution, pair_pre_acts, pattern_of, pre_act_blocks
from sae_lightning.sae.kernels.select import csr, floor_to
from sae_lightning.sae.selective import SelectiveAutoencoder

# Half the spacing of bfloat16 around 1: what rounding one number to it moves it by, relative to it.
_UNIT = 2.0**-8
# Room for what float32 adds to sums of products of bfloat16: far less than this share of the bound.
_ROOM = 1.01


class ProvenEncoder:
    """Encodes raw rows as an SAE in eval mode does, at half the price of its product on CPUs that multiply bfloat16.

    For an SAE that keeps what exceeds one threshold t (batch top-k, Matryoshka). With ``x~ = bf16(x)``,
    ``W~ = bf16(W)`` the narrow product is off by at most

        ``|z~ - z| <= ||x - x~|| max_i ||W_i|| + ||x~|| max_i ||W_i - W~_i|| + 2^-8 (max_i |b_i| + |z~|)``

    (Cauchy-Schwarz; the last term is the rounding of bias and result). So whatever exceeds t exceeds t minus that
    bound in the narrow product: those are scored again in float32, and of them the ones above t are kept. The same
    features with the same activations, up to the order of a float32 sum.

    For every other SAE it calls ``encode``. The SAE must not change while this is in use.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae
        self.narrow = _has_one_threshold(sae)
        if self.narrow:
            W = sae.W_enc.detach()
            rounded = W.to(torch.bfloat16)
            self._widest = float(W.norm(dim=0).max()) * _ROOM
            self._lost = float((W - rounded).norm(dim=0).max()) * _ROOM
            self._bias = float(sae.b_enc.detach().abs().max()) * _UNIT
            # By feature in memory, like the weights themselves.
            self._weights = rounded.t().contiguous().t()

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "n d_in"]) -> Features:
        """Return the features of each row, active pairs alone."""
        sae = self.sae
        if not self.narrow or not len(x):
            return sae.encode(x).sparse()
        assert isinstance(sae, SelectiveAutoencoder)
        rows = sae._rows(x)
        above = sae.selector(len(x))
        assert isinstance(above, Above)
        narrow = rows.centred.to(torch.bfloat16)
        bars = self._bars(rows.centred, narrow, float(above.threshold))
        places = []
        execution, bias = Execution(), sae.b_enc.detach().to(torch.bfloat16)
        for first, z in pre_act_blocks(narrow, self._weights, bias, None, execution, torch.bfloat16):
            row, feature = _exceeds(z, bars).nonzero(as_tuple=True)
            places.append(row * sae.d_sae + feature + first)
        found = places[0] if len(places) == 1 else torch.cat(places).sort().values
        indices, offsets = csr(found, len(x), sae.d_sae)
        scores = pair_pre_acts(rows.centred, sae.W_enc, sae.b_enc, pattern_of(indices, offsets, sae.d_sae))
        kept = (scores > floor_to(above.threshold, scores.dtype)) & (sae.activate(scores) != 0)
        before = torch.cat([offsets.new_zeros(1), kept.cumsum(0)])
        values = sae.activate(scores[kept])
        return Features(values, indices[kept], before[offsets], sae.d_sae, rows.mean, rows.std)

    def _bars(
        self, centred: Float[Tensor, "n d_in"], narrow: Float[Tensor, "n d_in"], threshold: float
    ) -> Float[Tensor, "n 1"]:
        """Return, of each row, what the narrow product of every kept feature exceeds, rounded down to bfloat16."""
        rounded = narrow.to(centred.dtype)
        off = (centred - rounded).norm(dim=1) * self._widest + rounded.norm(dim=1) * self._lost
        lowest = threshold - _ROOM * off - self._bias
        # Once for the rounding of the result, and twice for that of the bar itself.
        return (lowest - 3 * _UNIT * lowest.abs()).to(torch.bfloat16)[:, None]


def _exceeds(z: Float[Tensor, "n width"], bars: Float[Tensor, "n 1"]) -> Bool[Tensor, "n width"]:
    """Return ``z > bars``: above 0 bfloat16 numbers are ordered like their bits, which compare faster."""
    if bool((bars > 0).all()):
        return z.view(torch.int16) > bars.view(torch.int16)
    return z > bars


def _has_one_threshold(sae: SparseAutoencoder) -> bool:
    if not isinstance(sae, SelectiveAutoencoder) or sae.rescale_acts_by_decoder_norm or sae.training:
        return False
    if sae.W_enc.dtype != torch.float32 or sae.W_enc.device.type != "cpu" or not sae.execution.ranks.alone:
        return False
    return isinstance(sae.selector(1), Above)
