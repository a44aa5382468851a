"""How sparse are the features on held-out activations?"""

from typing import ClassVar

import torch

from sae_lightning.metrics import Density, RunningMetric, Sparsity
from sae_lightning.studies.passes import Pass
from sae_lightning.studies.study import Table
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import WindowStudy


class SparsityStudy(WindowStudy):
    """``l0 l1 dead dense_share`` on raw held-out activations, formulas in ``metrics``, and the density histogram.

    ``dead`` is over the tokens measured here, whose number stands beside it; training counts over many more. Its
    interval is that of the jackknife (``metrics.linearised``).
    """

    name: ClassVar[str] = "sparsity"
    linear: ClassVar[frozenset[str]] = frozenset({"dead"})

    def __init__(self, bins: int = 40, show_progress: bool = True) -> None:
        self.bins = bins
        self.show_progress = show_progress

    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        out: list[tuple[RunningMetric, ...]] = []
        for window in unit.windows():
            sparsity, density = Sparsity(subject.device), Density(unit.sae.d_sae, device=subject.device)
            sparsity.update(window.features)
            density.update(window.features)
            out.append((sparsity, density))
        return out

    def tables(self, subject: Subject, metrics: tuple[RunningMetric, ...]) -> dict[str, Table]:
        density = metrics[1]
        assert isinstance(density, Density)
        n = max(1, int(density.n))
        # Below one firing in all tokens there is nothing to see.
        counts, edges = density.histogram(self.bins, lowest=float(-torch.tensor(float(n)).log10().ceil().clamp(min=1)))
        rows = tuple((float(a), float(b), int(c)) for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True))
        never = int((density.counts == 0).sum())
        caption = f"log10 of the share of {n:,} tokens on which a feature is active; {never:,} features never were"
        return {"density_histogram": Table(("from", "to", "features"), rows, caption)}
