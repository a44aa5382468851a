"""A few held-out activations that travel with an SAE, and what it measured on them: loading measures again."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.metrics import FVU, Sparsity
from sae_lightning.sae.base import SparseAutoencoder

#: How many rows an export carries.
SAMPLE_ROWS = 512
#: How far a figure may be off at loading, relative to the recorded one.
TOLERANCE = 0.02
_PREFIX = "sample."


def pack(x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"] | None = None) -> dict[str, Tensor]:
    """Return a sample as tensors beside the weights: ``sample.x``, and ``sample.y`` where the SAE writes another site.

    In bfloat16 where that loses nothing, which is so for rows of a language model in bfloat16.
    """
    out = {}
    for name, rows in (("x", x), ("y", y)):
        if rows is not None:
            rows = rows.detach().float().cpu().contiguous()
            short = rows.bfloat16()
            out[_PREFIX + name] = short if torch.equal(short.float(), rows) else rows
    return out


def unpack(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Take a sample out of ``tensors`` (which keeps the weights alone); return (x, y) in float32, or None."""
    x, y = (tensors.pop(_PREFIX + name, None) for name in ("x", "y"))
    if x is None:
        return None
    return x.float(), (x if y is None else y).float()


def measure(sae: SparseAutoencoder, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return ``l0`` and ``fvu`` of an SAE in eval mode on the rows of a sample."""
    fvu, sparsity = FVU(sae.d_out), Sparsity()
    with torch.no_grad():
        for first in range(0, len(x), 256):
            part = slice(first, first + 256)
            out = sae(x[part].to(sae.W_dec.device))
            fvu.update(y[part], out.y_hat.cpu())
            sparsity.update(out.features)
    return {"l0": sparsity.compute()["l0"], "fvu": fvu.compute()["fvu"]}


def check(sae: SparseAutoencoder, sample: tuple[Tensor, Tensor], recorded: Mapping[str, Any], where: object) -> None:
    """Raise UserError unless ``sae`` measures on its sample what was recorded, to ``TOLERANCE``."""
    for name, rows, width in zip("xy", sample, (sae.d_in, sae.d_out), strict=True):
        if rows.shape != (len(sample[0]), width) or not len(rows) or not torch.isfinite(rows).all():
            raise UserError(
                f"{where}: its stored {_PREFIX}{name} has shape {list(rows.shape)}, but must be finite rows of width "
                f"{width}, as many as {_PREFIX}x; export it again"
            )
    measured = measure(sae, *sample)
    for name, value in measured.items():
        said = recorded.get(name)
        if not isinstance(said, int | float) or not abs(value - said) <= TOLERANCE * abs(said) + 1e-6:
            raise UserError(
                f"{where}: {name} is {value:.4g} on the activations stored with this SAE, but {said} was recorded when "
                f"it was saved (may be off by {TOLERANCE:.0%}); its settings or weights were changed: export it again"
            )
