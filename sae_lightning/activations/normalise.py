"""Normalisation of activations: fitted once on a sample, kept in checkpoints, folded away at export."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lightning.core import UserError, nearest

Mode = Literal["none", "sqrt_d", "rms", "layer_norm", "centre"]
MODES: tuple[Mode, ...] = get_args(Mode)
GAMMA_LIMIT = 0.5
LAYER_NORM_EPS = 1e-5
_CHUNK = 8192


class Normaliser(nn.Module):
    """``x_n = (x - mean) * scale`` for inputs, ``y_n = (y - mean_out) * scale_out`` for targets.

    modes (d = width of the site):
    - ``none``:       scale 1
    - ``centre``:     scale 1, centring always on
    - ``sqrt_d``:     scale = sqrt(d) / E||x - mean||, so that the mean norm is sqrt(d) (Anthropic, April 2024)
    - ``rms``:        scale = sqrt(d / E||x - mean||^2): unit mean square per element (Gemma Scope)
    - ``layer_norm``: each row ``(x - mean_d(x)) / sqrt(var_d(x) + 1e-5)``, nothing fitted, not foldable (Gao 2024).
      Targets and outputs use the statistics of the *input* row, because at inference there is no other.

    Shapes: mean, scale [d_in]; mean_out, scale_out [d_out]. Without centring the means are 0. The scale is one number
    per site, repeated over the site's width: a crosscoder's concatenated sites are scaled each on its own. For an SAE
    (y is x) the output statistics equal the input's.

    The buffers stay float32 whatever ``.to(dtype)`` asks: the folded export has to reproduce them.
    """

    mean: Tensor
    scale: Tensor
    mean_out: Tensor
    scale_out: Tensor

    def __init__(self, mode: Mode, centre: bool, d_in: int, d_out: int | None = None) -> None:
        super().__init__()
        check_mode(mode, centre)
        self.mode: Mode = mode
        self.centre = centre or mode == "centre"
        self.d_in = d_in
        self.d_out = d_in if d_out is None else d_out
        self.register_buffer("mean", torch.zeros(self.d_in))
        self.register_buffer("scale", torch.ones(self.d_in))
        self.register_buffer("mean_out", torch.zeros(self.d_out))
        self.register_buffer("scale_out", torch.ones(self.d_out))

    @classmethod
    def fit(
        cls,
        x: Float[Tensor, "n d_in"],
        mode: Mode = "sqrt_d",
        centre: bool | Literal["auto"] = "auto",
        *,
        y: Float[Tensor, "n d_out"] | None = None,
        widths: Sequence[int] | None = None,
        widths_out: Sequence[int] | None = None,
    ) -> "Normaliser":
        """Fit on a sample of raw rows; all sums in float64.

        centre="auto": on when gamma = ||mean(x)|| / sqrt(mean ||x - mean(x)||^2) > 0.5 (decided on the input).
        y: raw targets where they differ from x. widths, widths_out: widths of concatenated sites (default: one site).
        Raises UserError for a sample that is empty, not finite, or constant where a scale is asked for.
        """
        check_mode(mode, centre is True)
        check_sample(x)
        if centre == "auto":
            centre = mode not in ("layer_norm", "centre") and gamma(x) > GAMMA_LIMIT
        out = cls(mode, centre, x.shape[1], None if y is None else y.shape[1]).to(x.device)
        if mode == "layer_norm":
            return out
        out.mean, out.scale = _fit(x, out.mode, out.centre, widths)
        if y is None:
            out.mean_out, out.scale_out = out.mean.clone(), out.scale.clone()
        else:
            check_sample(y)
            out.mean_out, out.scale_out = _fit(y, out.mode, out.centre, widths_out)
        return out

    @property
    def foldable(self) -> bool:
        """Whether the mapping is the same affine one for every row."""
        return self.mode != "layer_norm"

    def apply(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:  # type: ignore[override]  # nn.Module.apply: below
        """Return normalised inputs."""
        if not isinstance(x, Tensor):  # `parent.apply(fn)` of nn.Module visits every child by this name
            return super().apply(x)
        if self.mode == "layer_norm":
            mean, std = row_statistics(x)
            return (x - mean) / std
        return (x - self.mean) * self.scale

    def apply_output(
        self, y: Float[Tensor, "n d_out"], rows: Float[Tensor, "n d_in"] | None = None
    ) -> Float[Tensor, "n d_out"]:
        """Return normalised targets. rows: the raw inputs they belong to (default: y itself, as in an SAE)."""
        if self.mode == "layer_norm":
            mean, std = row_statistics(y if rows is None else rows)
            return (y - mean) / std
        return (y - self.mean_out) * self.scale_out

    def undo(
        self, y_n: Float[Tensor, "n d_out"], rows: Float[Tensor, "n d_in"] | None = None
    ) -> Float[Tensor, "n d_out"]:
        """Return outputs in raw units. rows: the raw inputs they came from (needed for layer_norm only)."""
        if self.mode == "layer_norm":
            if rows is None:
                raise ValueError("layer_norm is undone with the statistics of the raw input rows: pass rows")
            mean, std = row_statistics(rows)
            return y_n * std + mean
        return y_n / self.scale_out + self.mean_out

    def site_scales(self, widths_out: Sequence[int]) -> list[float]:
        """Return what each written site, of these widths, is multiplied by."""
        assert sum(widths_out) == self.d_out
        return [float(site[0]) for site in self.scale_out.split(list(widths_out))]

    def forward(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        return self.apply(x)

    def _apply(self, fn: Any, recurse: bool = True) -> "Normaliser":
        # `nn.Module.to/half/bfloat16` pass through here: take the device from them, never the dtype.
        for name, buffer in self._buffers.items():
            assert buffer is not None
            self._buffers[name] = buffer.to(fn(buffer).device)
        return self

    def extra_repr(self) -> str:
        return f"mode={self.mode}, centre={self.centre}, d_in={self.d_in}, d_out={self.d_out}"


def check_mode(mode: str, centre: bool) -> None:
    """Raise UserError for an unknown mode or one that contradicts centring."""
    if mode not in MODES:
        raise UserError(f"normalisation mode={mode!r}: must be one of {', '.join(MODES)}{nearest(mode, MODES)}")
    if mode == "layer_norm" and centre:
        raise UserError(
            "normalisation mode='layer_norm' with centre=true: layer norm centres every row itself; set centre=false"
        )


def check_sample(x: Tensor) -> None:
    """Raise UserError unless x is a non-empty [n, d] sample of finite numbers."""
    if x.ndim != 2 or 0 in x.shape:
        raise UserError(f"normalisation sample of shape {tuple(x.shape)}: needs rows [n, d] with n, d >= 1")
    first = 0
    for chunk in x.split(_CHUNK):
        bad = ~torch.isfinite(chunk).all(1)
        if bad.any():
            row = first + int(bad.nonzero()[0])
            raise UserError(f"normalisation sample: row {row} holds NaN or infinity; mask or repair the activations")
        first += len(chunk)


def row_statistics(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Return each row's mean and ``sqrt(var + 1e-5)`` (biased variance), as layer norm takes them."""
    var, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
    return mean, (var + LAYER_NORM_EPS).sqrt()


def gamma(x: Float[Tensor, "n d"]) -> float:
    """Return ``||mean(x)|| / sqrt(mean ||x - mean(x)||^2)``: how far the cloud lies from the origin, in its radii."""
    mean = sample_mean(x)
    spread = math.sqrt(sum(float((c - mean).square().sum()) for c in _chunks(x)) / len(x))
    norm = float(mean.norm())
    return norm / spread if spread > 0 else (math.inf if norm > 0 else 0.0)


def sample_mean(x: Float[Tensor, "n d"]) -> Float[Tensor, "d"]:
    """Return the mean row in float64. Summed in chunks: no float64 copy of the sample."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for chunk in _chunks(x):
        total += chunk.sum(0)
    return total / len(x)


def _chunks(x: Tensor) -> Iterator[Tensor]:
    return (chunk.double() for chunk in x.split(_CHUNK))


def _fit(x: Tensor, mode: Mode, centre: bool, widths: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    widths = [x.shape[1]] if widths is None else list(widths)
    assert sum(widths) == x.shape[1], f"site widths {widths} do not add up to {x.shape[1]}"
    # The mean as it will be stored, so that the scale fits what is subtracted.
    mean = sample_mean(x).float() if centre else torch.zeros(x.shape[1], device=x.device)
    scales = []
    first = 0
    for width in widths:
        site, site_mean = x[:, first : first + width], mean[first : first + width].double()
        first += width
        if mode in ("none", "centre"):
            scales.append(torch.ones(width, device=x.device))
            continue
        power = 1 if mode == "sqrt_d" else 2
        moment = sum(float((c - site_mean).norm(dim=1).pow(power).sum()) for c in _chunks(site)) / len(x)
        if moment <= 0:
            raise UserError(
                f"normalisation mode={mode!r}: all {len(x)} sampled activations of a site are equal, so there is no "
                "scale to fit; check the site and the text, or use mode=none"
            )
        scale = math.sqrt(width) / moment ** (1 / power)
        scales.append(torch.full((width,), scale, device=x.device))
    return mean, torch.cat(scales)
