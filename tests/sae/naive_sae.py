"""The formulas of SCIENCE section 2, dense, in float64, with autograd: what the real classes must equal."""

import torch
from torch import Tensor

from sae_lightning.sae import SparseAutoencoder, initialise, sae_class

ARCHITECTURES = ("standard", "topk", "batch_topk", "jumprelu", "gated", "matryoshka")
OPTIONS = {
    "standard": {"negative_slope": 0.0},
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "jumprelu": {"theta_init": 0.3, "bandwidth": 0.5},
    "gated": {},
    "matryoshka": {"k": 4, "groups": (1 / 8, 1 / 4)},
}


def build(name: str, d_in: int = 12, d_sae: int = 40, d_out: int | None = None, *, seed: int = 0, **options):
    """An SAE whose every parameter is random, so that no term of a formula vanishes."""
    sae = sae_class(name)(d_in, d_sae, d_out, **(OPTIONS[name] | options))
    generator = torch.Generator().manual_seed(seed)
    initialise(sae, torch.randn(50, sae.d_in, generator=generator), torch.randn(50, sae.d_out, generator=generator))
    with torch.no_grad():
        for parameter_name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.2 * noise if parameter_name == "log_theta" else 0.3 * noise)
    return sae


def parameters_of(sae: SparseAutoencoder) -> dict[str, Tensor]:
    return {name: p.detach().double().requires_grad_() for name, p in sae.named_parameters()}


def naive_forward(sae: SparseAutoencoder, p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y_hat, f, z) in float64; sae gives the options only."""
    x = x.double()
    mean, std = 0.0, 1.0
    if sae.layer_norm:
        mean, std = x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = (x - mean) / std
    norms = p["W_dec"].pow(2).sum(1).sqrt() if sae.rescale_acts_by_decoder_norm else 1.0
    h = x - p["b_dec"] if sae.subtract_b_dec else x
    z = (h @ p["W_enc"] + p["b_enc"]) * norms
    f = _activation(sae, p, h, z, norms)
    y_hat = (f / norms) @ p["W_dec"] + p["b_dec"]
    if sae.skip:
        y_hat = y_hat + h @ p["W_skip"]
    return y_hat * std + mean, f, z


def _activation(sae, p, h, z, norms):
    if sae.name == "standard":
        return torch.where(z > 0, z, sae.negative_slope * z)
    if sae.name == "jumprelu":
        theta = p["log_theta"].exp()
        kernel = ((z - theta).abs() < sae.bandwidth / 2).double()
        value = z * (z > theta)
        estimate = -(theta / sae.bandwidth * kernel).detach() * (theta - theta.detach())
        return value + estimate
    if sae.name == "gated":
        magnitude = ((h @ (p["W_enc"] * p["r_mag"].exp())) + p["b_mag"]) * norms
        return (z > 0) * magnitude.relu()
    keep = torch.zeros_like(z)
    if sae.name == "topk":
        if sae.selection == "group_max":
            groups = z.reshape(len(z), sae.k, -1)
            keep = (groups == groups.amax(-1, keepdim=True)).double().reshape(z.shape)
        else:
            ranked = z.abs() if sae.selection == "abs_topk" else z
            keep.scatter_(1, ranked.argsort(1, descending=True)[:, : sae.k_effective], 1.0)
        return z * keep if sae.selection == "abs_topk" else (z * keep).relu()
    if sae.training:
        best = z.flatten().argsort(descending=True, stable=True)[: sae.k_effective * len(z)]
        keep.view(-1)[best] = 1.0
    else:
        keep = (z > sae.threshold).double()
    return (z * keep).relu()
