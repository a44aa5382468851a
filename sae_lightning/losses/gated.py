"""The two terms that train a gated SAE's gate, whose step has no gradient of its own."""

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Schedule, UserError
from sae_lightning.losses.context import StepContext
from sae_lightning.losses.reconstruction import squared_error
from sae_lightning.losses.term import LossTerm
from sae_lightning.losses.weights import DecoderNorm, penalty_weights
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.gated import GatedSAE

DEFAULT_COEFFICIENT = Schedule(5.0, "warmup", 0.05)


class GatedL1(LossTerm):
    """``mean_token sum_i ReLU(pi_i) w_i``: L1 on the gate's pre-activations, not on the features.

    w_i = 1 (``decoder_norm: plain``), which supposes a unit-norm decoder; ``weighted`` is for a free one. None: the one
    or the other, as the SAE is.
    Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders".
    """

    name = "gated_l1"
    penalises_sparsity = True

    def __init__(
        self, coefficient: Schedule | float = DEFAULT_COEFFICIENT, decoder_norm: DecoderNorm | None = "plain"
    ) -> None:
        super().__init__(coefficient)
        self.decoder_norm: DecoderNorm | None = decoder_norm

    def check(self, sae: SparseAutoencoder) -> None:
        _check_gated(self.name, sae)

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        mode: DecoderNorm = self.decoder_norm or ("plain" if ctx.sae.unit_norm_decoder else "weighted")
        weights = penalty_weights(ctx.sae, mode)
        return ctx.sae.over_shards((ctx.pre_acts().relu().sum(0) * weights).sum()) / len(ctx.batch)


class GatedAux(LossTerm):
    """``mean_token ||y - y_hat_frozen(ReLU(pi))||^2``: the gate alone must reconstruct, with the decoder detached.

    Only the decoder (W_dec, b_dec as its bias, the skip path) is frozen; what pi was computed from is trained.
    Source: as ``GatedL1``.
    """

    name = "gated_aux"

    def check(self, sae: SparseAutoencoder) -> None:
        _check_gated(self.name, sae)

    def compute(self, ctx: StepContext) -> Float[Tensor, ""]:
        sae, x, features = ctx.sae, ctx.batch.x, ctx.out.features
        mean, std = features.input_mean, features.input_std
        pi = ctx.pre_acts()
        if sae.rescale_acts_by_decoder_norm:
            pi = pi / sae.decoder_norms()
        b_dec = sae.b_dec.detach()
        y_hat = sae.over_shards(pi.relu() @ sae.W_dec.detach()) + b_dec
        if sae.W_skip is not None:
            x = x if mean is None or std is None else (x - mean) / std
            y_hat = y_hat + (x - b_dec if sae.subtract_b_dec else x) @ sae.W_skip.detach()
        if mean is not None and std is not None:
            y_hat = y_hat * std + mean
        return squared_error(y_hat, ctx.batch.y)


def _check_gated(name: str, sae: SparseAutoencoder) -> None:
    if not isinstance(sae, GatedSAE):
        raise UserError(f"loss {name} with model={sae.name}: needs the gate of model=gated; remove the term")
