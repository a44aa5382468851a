"""How well are held-out activations reconstructed?"""

from typing import ClassVar

from sae_lightning.metrics import FVU, Alignment, PerTokenEV, ResidualVarianceEV, RunningMetric
from sae_lightning.studies.passes import Pass
from sae_lightning.studies.subject import Subject
from sae_lightning.studies.windows import WindowStudy


class ReconstructionStudy(WindowStudy):
    """``fvu explained_variance mse cosine l2_ratio`` on raw held-out activations, formulas in ``metrics``.

    others: also ``ev_per_token`` and ``ev_residual_variance``, which other libraries call explained variance.
    """

    name: ClassVar[str] = "reconstruction"

    def __init__(self, others: bool = True, show_progress: bool = True) -> None:
        self.others = others
        self.needs_mean = others
        self.show_progress = show_progress

    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        out: list[tuple[RunningMetric, ...]] = []
        for window in unit.windows():
            fvu, alignment = FVU(unit.sae.d_out, subject.device), Alignment(subject.device)
            fvu.update(window.y, window.y_hat)
            alignment.update(window.y, window.y_hat)
            metrics: tuple[RunningMetric, ...] = (fvu, alignment)
            if self.others:
                assert unit.mean is not None
                per_token, residual = PerTokenEV(unit.mean), ResidualVarianceEV(unit.sae.d_out, subject.device)
                per_token.update(window.y, window.y_hat)
                residual.update(window.y, window.y_hat)
                metrics += (per_token, residual)
            out.append(metrics)
        return out
