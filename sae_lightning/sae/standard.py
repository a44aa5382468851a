"""Standard: ReLU features under an L1 penalty."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from sae_lightning.core import UserError
from sae_lightning.sae.forms import InitDefaults
from sae_lightning.sae.kernels import SparsePattern
from sae_lightning.sae.thresholded import ThresholdedAutoencoder


class StandardSAE(ThresholdedAutoencoder):
    """``f = ReLU((x - b_dec) W_enc + b_enc)``, ``y_hat = f W_dec + b_dec``.

    negative_slope: LeakyReLU instead of ReLU; negative activations then count as active.

    Trained with ``SSE + lambda sum_i f_i ||d_i||`` on inputs with E||x|| = sqrt(d); free decoder, rows of norm 0.1,
    W_enc = W_dec^T, biases 0. Source: Anthropic, "Circuits updates", April 2024.
    """

    name = "standard"
    init_defaults = InitDefaults("tied", 0.1, "zero")

    def __init__(
        self,
        d_in: PositiveInt,
        d_sae: PositiveInt,
        d_out: PositiveInt | None = None,
        *,
        negative_slope: Annotated[float, Ge(0), Lt(1)] = 0.0,
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
        if not 0 <= negative_slope < 1:
            raise UserError(f"negative_slope={negative_slope}: must lie between 0 and 1")
        self.negative_slope = negative_slope

    def bars(self) -> Float[Tensor, "d_sae"]:
        # Nothing is 0 under a leaky ReLU: no bar is low enough.
        return torch.full_like(self.b_enc, -torch.inf if self.negative_slope else 0.0)

    def activate_pairs(self, z: Float[Tensor, "nnz"], pattern: SparsePattern) -> Float[Tensor, "nnz"]:
        return self.activate_all(z)

    def activate_all(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return functional.leaky_relu(z, self.negative_slope) if self.negative_slope else z.relu()
