"""JumpReLU: a threshold per feature, trained through a straight-through estimator."""

from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sae_lightning.core import SAEOutput, UserError
from sae_lightning.sae.forms import InitDefaults, Rows
from sae_lightning.sae.kernels import SparsePattern, gather_features, pattern_of
from sae_lightning.sae.thresholded import ThresholdedAutoencoder, pair_pre_acts_of


class JumpReLUSAE(ThresholdedAutoencoder):
    """``f = z H(z - theta)`` with ``z = (x - b_dec) W_enc + b_enc``, ``y_hat = f W_dec + b_dec``.

    ``theta = exp(log_theta) > 0`` [d_sae], in the unit of f; at least float32 whatever the SAE's dtype, and compared
    in float32 under autocast. Straight-through gradients with the rectangle kernel K(u) = 1 for |u| < 1/2, else 0:

    - ``df/dz = H(z - theta)``,  ``df/dtheta = -(theta / bandwidth) K((z - theta) / bandwidth)``
    - ``dH/dtheta = -(1 / bandwidth) K((z - theta) / bandwidth)``, ``dH/dz = 0`` (``step``, for the L0 penalty)

    theta_init, bandwidth: 0.001 on inputs of unit mean square (Gemma Scope); 0.1 and 2 for the tanh penalty (Anthropic,
    January 2025). Source: Rajamanoharan et al. 2024, "Jumping ahead". Raises UserError unless both are positive.
    """

    name = "jumprelu"
    init_defaults = InitDefaults("tied", 0.1, "zero")
    keep_dtype = ("log_theta",)

    def __init__(
        self,
        d_in: PositiveInt,
        d_sae: PositiveInt,
        d_out: PositiveInt | None = None,
        *,
        theta_init: PositiveFloat = 0.001,
        bandwidth: PositiveFloat = 0.001,
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
        if not (theta_init > 0 and bandwidth > 0):
            raise UserError(f"theta_init={theta_init}, bandwidth={bandwidth}: both must be positive")
        self.theta_init, self.bandwidth = theta_init, bandwidth
        self.log_theta = nn.Parameter(torch.empty(d_sae))
        self.start_thresholds_()

    @property
    def theta(self) -> Float[Tensor, "d_sae"]:
        """The thresholds, differentiable."""
        return self.log_theta.exp()

    def step(self, pre_acts: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Return ``H(z - theta)`` as numbers; its sum over features is the L0 of a row. Gradient to theta alone."""
        z = _at_least_float32(pre_acts)
        return _Step.apply(z, self.theta.to(z.dtype), self.bandwidth)

    def step_sum(self, out: SAEOutput) -> Float[Tensor, ""]:
        """Return the sum of ``H(z - theta)`` over rows and features, whatever form the features of ``out`` have."""
        if out.features.indices is None or out.features.offsets is None:
            assert out.pre_acts is not None
            return self.step(out.pre_acts).sum()
        z = _at_least_float32(pair_pre_acts_of(out))
        theta = gather_features(self.theta, pattern_of(out.features.indices, out.features.offsets, self.width))
        return _Step.apply(z, theta.to(z.dtype), self.bandwidth).sum()

    def bars(self) -> Float[Tensor, "d_sae"]:
        # The kernel reaches below the threshold: pairs there do not fire, but move it.
        return (self.theta - self.bandwidth / 2).detach()

    def activate_pairs(self, z: Float[Tensor, "nnz"], pattern: SparsePattern) -> Float[Tensor, "nnz"]:
        z = _at_least_float32(z)
        return _JumpReLU.apply(z, gather_features(self.theta, pattern).to(z.dtype), self.bandwidth)

    def activate_all(self, z: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        z = _at_least_float32(z)
        return _JumpReLU.apply(z, self.theta.to(z.dtype), self.bandwidth)

    def _pre_acts(self, rows: Rows) -> Float[Tensor, "n d_sae"]:
        return _at_least_float32(super()._pre_acts(rows))

    @torch.no_grad()
    def start_thresholds_(self) -> None:
        self.log_theta.fill_(self.theta_init).log_()

    def _scale_thresholds_(self, factor: Tensor) -> None:
        self.log_theta.copy_(self.log_theta.double() + factor.log())


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _kernel(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    return (z - theta).abs() < bandwidth / 2


class _JumpReLU(Function):
    # theta: of each feature, or (for pairs) one beside each z.
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.bandwidth = bandwidth
        ctx.save_for_backward(z, theta)
        return z * (z > theta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        z, theta = ctx.saved_tensors
        d_theta = -(theta / ctx.bandwidth) * (grad * _kernel(z, theta, ctx.bandwidth)).sum_to_size(theta.shape)
        return grad * (z > theta), d_theta, None


class _Step(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.bandwidth = bandwidth
        ctx.save_for_backward(z, theta)
        return (z > theta).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        z, theta = ctx.saved_tensors
        return None, -(grad * _kernel(z, theta, ctx.bandwidth)).sum_to_size(theta.shape) / ctx.bandwidth, None
