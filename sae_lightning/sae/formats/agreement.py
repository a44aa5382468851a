"""Do two SAEs do the same? Features and reconstructions on the same rows, and what lies on a threshold apart."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import derive_seed
from sae_lightning.core.seeds import torch_generator
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.formats.algebra import thresholds

TOLERANCE = 1e-5
_CHUNK = 256
# Of the features that fire, at most this share may fire in one SAE only.
_TIES = 1e-4


@dataclass(frozen=True)
class Agreement:
    """The largest differences over ``rows`` rows.

    features, reconstruction: relative to the root mean square of active features and of reconstructions.
    ties: pairs (row, feature) that fire in one SAE only though their pre-activations agree: those on the edge of a
        threshold or of a top-k, which a last bit decides. Their rows are left out of ``reconstruction``.
    active: pairs that fire.
    """

    features: float
    reconstruction: float
    rows: int
    ties: int
    active: int

    @property
    def good(self) -> bool:
        """Whether both lie within ``TOLERANCE`` and ties are as rare as rounding makes them."""
        worst = max(self.features, self.reconstruction)
        return worst <= TOLERANCE and self.ties <= max(1, _TIES * self.active)

    def __str__(self) -> str:
        if not self.active:
            return f"nothing to compare: no feature fires on {self.rows:,} rows"
        ties = f", {self.ties} of {self.active:,} active features on a threshold" if self.ties else ""
        return (
            f"features within {self.features:.1e} and reconstructions within {self.reconstruction:.1e} "
            f"on {self.rows:,} rows{ties}"
        )


@torch.no_grad()
def agreement(a: SparseAutoencoder, b: SparseAutoencoder, rows: Float[Tensor, "n d_in"]) -> Agreement:
    """Compare two SAEs of equal sizes on raw rows, both in eval mode."""
    a, b = a.eval(), b.eval()
    worst_f = worst_y = square_f = square_y = 0.0
    ties = active = outputs = 0
    for x in rows.split(_CHUNK):
        out_a, out_b = a(x), b(x)
        f_a, f_b = out_a.features.dense().double(), out_b.features.dense().double()
        gap, one_only = (f_a - f_b).abs(), (f_a != 0) ^ (f_b != 0)
        near = (out_a.pre_acts - out_b.pre_acts).abs() <= TOLERANCE * (1 + out_a.pre_acts.abs())
        tied = one_only & near & (gap > 0)
        worst_f = max(worst_f, float(gap.masked_fill(tied, 0).max()))
        # A tie of a feature that is next to 0 changes nothing: its row counts.
        kept = ~(tied & (gap > TOLERANCE)).any(1)
        y_a, y_b = out_a.y_hat[kept].double(), out_b.y_hat[kept].double()
        worst_y = max(worst_y, float((y_a - y_b).abs().max()) if kept.any() else 0.0)
        square_f, square_y = square_f + float(f_a.square().sum()), square_y + float(y_a.square().sum())
        ties, active, outputs = ties + int(tied.sum()), active + int((f_a != 0).sum()), outputs + y_a.numel()
    scale_f = (square_f / max(1, active)) ** 0.5 or 1.0
    scale_y = (square_y / max(1, outputs)) ** 0.5 or 1.0
    return Agreement(worst_f / scale_f, worst_y / scale_y, len(rows), ties, active)


@torch.no_grad()
def probe_rows(sae: SparseAutoencoder, n: int = 512, features_a_row: int = 4) -> Float[Tensor, "n d_in"]:
    """Return rows on which features of ``sae`` fire, for an SAE that no activations are kept of.

    Each is noise around where the SAE reads from, plus a few encoder directions long enough to pass their thresholds.
    """
    generator = torch_generator(derive_seed(0, "formats", "probe"))
    wide = sae.W_enc.detach().cpu().double()
    directions = (wide / wide.square().sum(0).clamp(min=1e-30)).T
    needed = sae.b_enc.detach().cpu().double().abs() + 1
    if (cut := thresholds(sae)) is not None:
        needed = needed + cut
    chosen = torch.randint(0, sae.d_sae, (n, features_a_row), generator=generator)
    strength = needed[chosen] * (0.5 + 2 * torch.rand(chosen.shape, generator=generator, dtype=torch.float64))
    rows = (strength[:, :, None] * directions[chosen]).sum(1)
    rows = rows + 0.1 * rows.std() * torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    return (rows + sae.b_dec.detach().cpu().double() if sae.subtract_b_dec else rows).float()
