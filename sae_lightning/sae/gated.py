"""Gated: one half decides whether a feature is on, the other how strongly, with shared weights."""

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.forms import Encoded, InitDefaults, Rows


class GatedSAE(SparseAutoencoder):
    """``f = H(pi) ReLU(exp(r_mag) h + b_mag)`` with ``h = (x - b_dec) W_enc``, ``pi = h + b_enc``.

    W_enc and b_enc are the gate's; the magnitude's weights are ``W_mag = exp(r_mag) W_enc`` (r_mag, b_mag [d_sae],
    from 0). pre_acts is pi, with gradients: the loss trains the gate through
    ``lambda sum ReLU(pi) + ||x - x_hat_frozen(ReLU(pi))||^2``, since H has none.

    The penalty on pi does not see the decoder's norms, so the decoder is kept at unit norm: else pi would shrink and
    W_dec grow. Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders".
    """

    name = "gated"
    unit_norm_default = True
    init_defaults = InitDefaults("tied", 1.0, "zero")
    encoder_biases = ("b_enc", "b_mag")

    def __init__(
        self,
        d_in: PositiveInt,
        d_sae: PositiveInt,
        d_out: PositiveInt | None = None,
        *,
        rescale_acts_by_decoder_norm: bool | None = None,
        subtract_b_dec: bool | None = None,
        unit_norm_decoder: bool | None = None,
        skip: bool = False,
        layer_norm: bool = False,
        site_widths: tuple[PositiveInt, ...] | None = None,
    ) -> None:
        super().__init__(
            d_in,
            d_sae,
            d_out,
            rescale_acts_by_decoder_norm=rescale_acts_by_decoder_norm,
            subtract_b_dec=subtract_b_dec,
            unit_norm_decoder=unit_norm_decoder,
            skip=skip,
            layer_norm=layer_norm,
            site_widths=site_widths,
        )
        self.r_mag = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))

    def _encode(self, rows: Rows) -> Encoded:
        h = rows.centred @ self.W_enc
        pi, magnitude = h + self.b_enc, h * self.r_mag.exp() + self.b_mag
        if self.rescale_acts_by_decoder_norm:
            norms = self.decoder_norms()
            pi, magnitude = pi * norms, magnitude * norms
        return Encoded(self._dense_features(magnitude.relu() * (pi > 0), rows), pi)

    @torch.no_grad()
    def shift_input_(self, shift: Float[Tensor, "d_in"]) -> None:
        super().shift_input_(shift)
        self.b_mag.add_(self.r_mag.exp() * (shift @ self.W_enc))
