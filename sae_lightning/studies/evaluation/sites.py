"""How well is each of several written sites reconstructed, and which features do the sites share?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import Features
from sae_lightning.metrics import FVU, RunningMetric
from sae_lightning.metrics.running import SumMetric, ratio
from sae_lightning.studies.passes import Pass
from sae_lightning.studies.sharing import SHARED, Written, kinds_by_norm, planted_kinds, word
from sae_lightning.studies.study import Cell, Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import WindowStudy


class SitesStudy(WindowStudy):
    """Of an SAE that writes several sites (a crosscoder): ``fvu`` of each, and what its decoder shares out among them.

    - ``fvu/SITE``, ``explained_variance/SITE``: ``metrics.FVU`` of the site's columns alone, in raw units;
    - a feature's share of part p is ``||d_i^p|| / sum_q ||d_i^q||``, in units of the sites as training normalised them
      (metadata ``scale_out``). Parts are the sites; of two models, the models (norms summed over a model's sites);
    - ``norm_only/PART``: share of the features that fired of which the part holds more than ``exclusive`` of the norm,
      ``norm_shared``: the rest; ``norm_even``: every part's share is within ``even`` of an equal one, relatively;
    - ``norm_l0/shared``, ``norm_l0/PART only``: such features active a token.

    Of two parts the histogram is that of the second's share. With planted features of two models: ``norm_matched``,
    the share of features that are one of them (``sharing.planted_kinds``, cosine ``matched``); of these,
    ``norm_right``, the share whose kind is the planted one, and ``norm_invented``: of those planted in both models, the
    share that the norms give to one alone.

    The cuts are those of Lindsey et al. 2024 ("Sparse crosscoders") and Minder et al. 2025: relative norms of 0.1 and
    0.9 for exclusive features, 0.4 to 0.6 for features shared evenly. rows: of the table of features.
    """

    name: ClassVar[str] = "sites"

    def __init__(
        self,
        exclusive: Annotated[float, Gt(0.5), Lt(1)] = 0.9,
        even: Annotated[float, Gt(0), Lt(1)] = 0.2,
        matched: Annotated[float, Gt(0), Lt(1)] = 0.8,
        bins: Annotated[int, Ge(2)] = 40,
        rows: Annotated[int, Ge(0)] = 200,
        show_progress: bool = True,
    ) -> None:
        self.exclusive, self.even, self.matched = exclusive, even, matched
        self.bins, self.rows, self.show_progress = bins, rows, show_progress

    def reason(self, subject: Subject) -> str | None:
        if len(Written.of(subject.sae).widths) < 2:
            return "needs an SAE that writes several sites (sites=crosscoder or sites=diff)"
        return None

    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        written = Written.of(subject.sae)
        sharing = self._sharing(subject, written)
        out: list[tuple[RunningMetric, ...]] = []
        for window in unit.windows():
            metrics: list[RunningMetric] = []
            sites = zip(window.y.split(written.widths, 1), window.y_hat.split(written.widths, 1), strict=True)
            for name, (y, y_hat) in zip(written.names, sites, strict=True):
                fvu = SiteFVU(name, y.shape[1], subject.device)
                fvu.update(y, y_hat)
                metrics.append(fvu)
            counts = sharing.fresh()
            counts.update(window.features)
            out.append((*metrics, counts))
        return out

    def _sharing(self, subject: Subject, written: Written) -> "Sharing":
        shares = written.shares(subject.sae)
        off = (shares * shares.shape[1] - 1).abs().max(1).values
        return Sharing(
            tuple(written.parts),
            kinds_by_norm(shares, self.exclusive),
            off <= self.even,
            planted_kinds(subject, written, self.matched),
        )

    def tables(self, subject: Subject, metrics: tuple[RunningMetric, ...]) -> dict[str, Table]:
        written = Written.of(subject.sae)
        found = metrics[-1]
        assert isinstance(found, Sharing)
        fires, kinds = found.counts.cpu(), found.kinds.cpu()
        shares, alive = written.shares(subject.sae).cpu(), fires > 0
        units = (
            "as training scaled them" if written.scaled else "in raw units (the SAE does not say how it scaled them)"
        )
        return {
            "share_histogram": self._histogram(written, shares[alive], kinds[alive], units),
            "features": self._features(written, shares, kinds, fires, int(found.n), units),
        }

    def _histogram(self, written: Written, shares: Tensor, kinds: Tensor, units: str) -> Table:
        drawn = list(written.parts)[1:] if len(written.parts) == 2 else list(written.parts)
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)
        counts = []
        for name in drawn:
            share = shares[:, list(written.parts).index(name)]
            place = (share * self.bins).long().clamp(0, self.bins - 1)
            counts.append(torch.bincount(place, minlength=self.bins).tolist())
        rows = tuple(
            (float(a), float(b), *(int(n) for n in row))
            for a, b, row in zip(edges[:-1], edges[1:], zip(*counts, strict=True), strict=True)
        )
        told = ", ".join(
            f"{int((kinds == kind).sum()):,} {word(kind, written.parts)}"
            for kind in (SHARED, *range(len(written.parts)))
        )
        caption = (
            f"share of the decoder norm, sites {units}, of {len(shares):,} features that fired: {told} "
            f"(more than {self.exclusive:g} of it)"
        )
        return Table(("from", "to", *drawn), rows, caption)

    def _features(self, written: Written, shares: Tensor, kinds: Tensor, fires: Tensor, n: int, units: str) -> Table:
        # Exclusive features first, then by how often they fire.
        order = (fires + (kinds != SHARED) * (int(fires.max()) + 1)).argsort(descending=True, stable=True)
        order = order[fires[order] > 0][: self.rows]
        rows: list[tuple[Cell, ...]] = [
            (i, int(fires[i]) / max(1, n), *(float(share) for share in shares[i]), word(int(kinds[i]), written.parts))
            for i in order.tolist()
        ]
        columns = ("feature", "fires", *(f"share of {name}" for name in written.parts), "by norm")
        caption = f"{len(rows):,} features, exclusive ones first: shares of the decoder norm, sites {units}"
        return Table(columns, tuple(rows), caption)


class SiteFVU(FVU):
    """``FVU`` of one site's columns, its figures named after the site."""

    def __init__(self, site: str, d_out: int, device: torch.device | str = "cpu") -> None:
        super().__init__(d_out, device)
        self.site = site

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        found = super().values(sums)
        return {f"{name}/{self.site}": found[name] for name in ("fvu", "explained_variance")}


class Sharing(SumMetric):
    """How many features of each kind fired, and how many are active a token.

    kinds [F]: SHARED or a part's number. even [F]: shared evenly. planted [F]: the kind in truth, -2: unknown; None
    where there is no truth. State: tokens n, and on how many each feature was active.
    """

    _fields = ("n", "counts")

    def __init__(
        self,
        parts: tuple[str, ...],
        kinds: Int[Tensor, "F"],
        even: Tensor,
        planted: Int[Tensor, "F"] | None,
    ) -> None:
        self.parts, self.kinds, self.even, self.planted = parts, kinds, even, planted
        self.n = torch.zeros((), dtype=torch.int64, device=kinds.device)
        self.counts = torch.zeros(len(kinds), dtype=torch.int64, device=kinds.device)

    def fresh(self) -> "Sharing":
        """Return one that has seen nothing, of the same features."""
        return Sharing(self.parts, self.kinds, self.even, self.planted)

    def update(self, features: Features) -> None:
        self.n = self.n + features.n_rows
        self.counts = self.counts + features.counts()

    def values(self, sums: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        counts = sums["counts"].double()
        alive = (counts > 0).double()
        of_kind = {f"{name} only": self.kinds.to(counts.device) == part for part, name in enumerate(self.parts)}
        shared = (self.kinds == SHARED).to(counts.device)

        def share(of: Tensor, among: Tensor) -> Tensor:
            return ratio(among @ of.double(), among.sum(-1))

        out = {"norm_shared": share(shared, alive), "norm_even": share(self.even.to(counts.device), alive)}
        out |= {f"norm_only/{name}": share(of_kind[f"{name} only"], alive) for name in self.parts}
        l0 = {"shared": shared, **of_kind}
        out |= {f"norm_l0/{name}": ratio(counts @ of.double(), sums["n"]) for name, of in l0.items()}
        if self.planted is not None:
            planted, kinds = self.planted.to(counts.device), self.kinds.to(counts.device)
            out["norm_matched"] = share(planted != -2, alive)
            out["norm_right"] = share(planted == kinds, alive * (planted != -2).double())
            out["norm_invented"] = share(kinds != SHARED, alive * (planted == SHARED).double())
        return out
