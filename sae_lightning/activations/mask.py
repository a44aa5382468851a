"""Which tokens count: the same mask in training, normalisation, metrics and everything after, saved with the SAE."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lightning.core import TokenBatch, UserError, nearest


@dataclass(frozen=True)
class MaskPolicy:
    """``keep = real & id not special & not (first_position and pos = 0) & ||x|| <= norm_multiple * median_norm``.

    real: a token of the text, not padding and not a separator or BOS that the window put in. ``median_norm`` is in the
    site's own units, over the tokens that pass the other rules; ``fit`` measures it. ``norm_multiple=None`` switches
    the last rule off.

    Why: the first position and a few tokens have norms 10 to 200 times the median (attention sinks) and would be all
    that an SAE, its normalisation and its FVU see.
    """

    special_ids: tuple[int, ...] = ()
    first_position: bool = True
    norm_multiple: float | None = 10.0
    median_norm: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "special_ids", tuple(int(i) for i in self.special_ids))
        for name in ("norm_multiple", "median_norm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"mask {name}={value}: must be a number above 0, or null")

    @property
    def fitted(self) -> bool:
        """Whether ``keep`` can be asked: the norm rule is off, or its median is known."""
        return self.norm_multiple is None or self.median_norm is not None

    def candidates(self, batch: TokenBatch) -> Bool[Tensor, "b p"]:
        """Return the tokens that pass every rule but the norm's; needs no activations."""
        keep = real_tokens(batch)
        if self.special_ids:
            keep = keep & ~torch.isin(batch.tokens, torch.tensor(self.special_ids, device=batch.tokens.device))
        if self.first_position:
            keep = keep.clone()
            keep[:, 0] = False
        return keep

    def keep(self, batch: TokenBatch, x: Float[Tensor, "b p d"]) -> Bool[Tensor, "b p"]:
        """Return which tokens count, on the device of ``x``."""
        if self.norm_multiple is None:
            return self.candidates(batch).to(x.device)
        return self.keep_by_norm(batch, row_norms(x))

    def keep_by_norm(self, batch: TokenBatch, norms: Float[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
        """Return ``keep(batch, x)`` from ``row_norms(x)`` alone; those of tokens that are not real do not matter."""
        keep = self.candidates(batch).to(norms.device)
        if self.norm_multiple is None:
            return keep
        if self.median_norm is None:
            raise ValueError("the mask's median norm is not known yet: fit it first (MaskPolicy.fit, calibrate)")
        return keep & (norms <= self.norm_multiple * self.median_norm)

    def fit(self, norms: Float[Tensor, "n"]) -> "MaskPolicy":
        """Return this policy with the median of ``norms``, those of tokens that pass ``candidates``."""
        if not norms.numel():
            raise UserError("mask: leaves no token of the sample; loosen mask.special_ids or mask.first_position")
        median = float(norms.double().quantile(0.5)) if norms.numel() < 1 << 24 else float(norms.median())
        if not math.isfinite(median):
            raise UserError("mask: more than half of the sampled activations are NaN or infinite; check the LM's dtype")
        # A site that is 0 for most tokens has no outliers to speak of.
        return replace(self, median_norm=median) if median > 0 else replace(self, norm_multiple=None, median_norm=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "special_ids": list(self.special_ids)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "MaskPolicy":
        """Read ``to_dict``'s form; UserError for keys it does not know."""
        known = cls.__dataclass_fields__
        for key in value:
            if key not in known:
                raise UserError(f"mask policy: unknown key {key!r}{nearest(key, known)}")
        return cls(**{**value, "special_ids": tuple(value.get("special_ids", ()))})


def real_tokens(batch: TokenBatch) -> Bool[Tensor, "b p"]:
    """Return which positions hold a token of the text: no padding, no inserted separator or BOS."""
    return batch.mask & (batch.token_index >= 0)


def row_norms(x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
    """Return the Euclidean norm of each row, summed in float32 whatever the dtype of ``x``."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
