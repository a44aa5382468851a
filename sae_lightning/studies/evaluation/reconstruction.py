"""How well are held-out activations reconstructed?"""

from sae_lightning.core import ActivationBatch, SAEOutput
from sae_lightning.metrics import FVU, Alignment
from sae_lightning.studies.evaluation.rows import RowStudy
from sae_lightning.studies.subject import Subject


class ReconstructionObserver:
    """Keeps ``FVU`` and ``Alignment``; ``fvu.mean`` is the mean target, which mean ablation needs."""

    def __init__(self, subject: Subject) -> None:
        self.fvu = FVU(subject.sae.W_dec.shape[1], subject.device)
        self.alignment = Alignment(subject.device)

    def observe(self, batch: ActivationBatch, out: SAEOutput) -> None:
        self.fvu.update(batch.y, out.y_hat)
        self.alignment.update(batch.y, out.y_hat)

    def values(self) -> dict[str, float]:
        return self.fvu.compute() | self.alignment.compute()


class ReconstructionStudy(RowStudy):
    """``fvu explained_variance mse cosine l2_ratio`` on raw held-out activations, formulas in ``metrics``."""

    name = "reconstruction"

    def observer(self, subject: Subject) -> ReconstructionObserver:
        return ReconstructionObserver(subject)
