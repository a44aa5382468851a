"""How a feature that writes several sites is shared out among them: norms, shares, and the words for them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies.subject import Subject

#: What a feature is: more than one part's, or that of part 0, 1, ... alone.
SHARED = -1
#: Models whose sites stand beside each other, as sites are named: MODEL/SITE.
MODELS = ("base", "tuned")


@dataclass(frozen=True)
class Written:
    """The sites that an SAE writes side by side, and what its training multiplied each of them by.

    names, widths: of the sites, in their order. scales: the normaliser's number of each site, so that
    ``scale_l d_i^l`` is a decoder row as it was trained; 1 where the export does not say (``scaled`` false).
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    scales: tuple[float, ...]
    scaled: bool

    @classmethod
    def of(cls, sae: SparseAutoencoder) -> "Written":
        """Read the export's metadata; without any, what the SAE itself knows of its sites."""
        said = sae.metadata.get("sites") or {}
        widths = tuple(said.get("widths_out") or sae.site_widths or (sae.d_out,))
        names = tuple(said.get("write") or ())
        if len(names) != len(widths):
            names = tuple(f"site {number}" for number in range(len(widths)))
        scales = tuple(float(scale) for scale in said.get("scale_out") or ())
        scaled = len(scales) == len(widths)
        return cls(names, widths, scales if scaled else (1.0,) * len(widths), scaled)

    @cached_property
    def parts(self) -> dict[str, slice]:
        """What features are shared out among, by name, with its columns: two models, else the sites."""
        ends = torch.tensor(self.widths).cumsum(0).tolist()
        columns = [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]
        models = [name.partition("/")[0] for name in self.names]
        if sorted(set(models)) == sorted(MODELS) and models == sorted(models):
            first = {model: columns[models.index(model)].start for model in MODELS}
            return {"base": slice(0, first["tuned"]), "tuned": slice(first["tuned"], ends[-1])}
        return dict(zip(self.names, columns, strict=True))

    def scale(self, device: torch.device | str = "cpu") -> Float[Tensor, "d_out"]:
        """Return each column's scale, float64."""
        scales = torch.tensor(self.scales, dtype=torch.float64, device=device)
        return scales.repeat_interleave(torch.tensor(self.widths, device=device))

    def rows(self, sae: SparseAutoencoder) -> Float[Tensor, "d_sae d_out"]:
        """Return the decoder's rows in units of the normalised sites, float64."""
        return sae.W_dec.detach().double() * self.scale(sae.W_dec.device)

    def shares(self, sae: SparseAutoencoder) -> Float[Tensor, "d_sae parts"]:
        """Return ``||d_i^p|| / sum_q ||d_i^q||``, norms summed over the sites of a part; NaN for a row of zeros."""
        norms = torch.stack([site.norm(dim=1) for site in self.rows(sae).split(self.widths, dim=1)], dim=1)
        starts = torch.tensor([0, *self.widths[:-1]]).cumsum(0).tolist()
        of_part = [
            norms[:, [number for number, start in enumerate(starts) if part.start <= start < part.stop]].sum(1)
            for part in self.parts.values()
        ]
        stacked = torch.stack(of_part, dim=1)
        return stacked / stacked.sum(1, keepdim=True)


def kinds_by_norm(shares: Float[Tensor, "d_sae parts"], cut: float) -> Int[Tensor, "d_sae"]:
    """Return the part that holds more than ``cut`` of a feature's norm, SHARED where none does."""
    largest = shares.nan_to_num(0.0).max(1)
    return torch.where(largest.values > cut, largest.indices, SHARED)


def planted_kinds(subject: Subject, written: Written, least_cosine: float) -> Int[Tensor, "d_sae"] | None:
    """Return what each feature is in truth, -2 for one that matches nothing; None where the truth is not known.

    A feature is matched in the part where its direction is longer, with the planted direction there that has the
    largest cosine, if that is ``least_cosine`` at least: so half of a planted feature is recognised as well.
    """
    from sae_lightning.activations.synthetic import TwoModels
    from sae_lightning.activations.synthetic.two_models import SHARED as IN_BOTH

    if not isinstance(subject.truth, TwoModels):
        return None
    truth, sae = subject.truth, subject.sae
    dominant = written.shares(sae).nan_to_num(0.0).argmax(1)
    cosines = torch.stack(
        [
            functional.normalize(sae.W_dec.detach()[:, part], dim=1)
            @ functional.normalize(truth.directions[:, part].to(sae.W_dec), dim=1).T
            for part in written.parts.values()
        ]
    )
    best = cosines[dominant, torch.arange(sae.d_sae, device=dominant.device)].max(1)
    kinds = truth.kind_of.to(best.indices.device)[best.indices]
    known = torch.where(kinds == IN_BOTH, SHARED, kinds - 1)  # BASE_ONLY is part 0, TUNED_ONLY part 1
    return torch.where(best.values >= least_cosine, known, -2)


def word(kind: int, parts: dict[str, slice]) -> str:
    """Return ``shared`` or ``NAME only``."""
    return "shared" if kind == SHARED else f"{list(parts)[kind]} only"
