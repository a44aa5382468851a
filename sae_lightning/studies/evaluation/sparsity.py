"""How sparse are the features on held-out activations?"""

from sae_lightning.core import ActivationBatch, SAEOutput
from sae_lightning.metrics import Density, Sparsity
from sae_lightning.studies.evaluation.rows import RowStudy
from sae_lightning.studies.subject import Subject


class SparsityObserver:
    """Keeps ``Sparsity`` and ``Density``; the density of every feature stays available after the pass."""

    def __init__(self, subject: Subject) -> None:
        self.sparsity = Sparsity(subject.device)
        self.density = Density(subject.sae.W_dec.shape[0], device=subject.device)

    def observe(self, batch: ActivationBatch, out: SAEOutput) -> None:
        self.sparsity.update(out.features)
        self.density.update(out.features)

    def values(self) -> dict[str, float]:
        return self.sparsity.compute() | self.density.compute()


class SparsityStudy(RowStudy):
    """``l0 l1 never_fired dense_share`` on raw held-out activations, formulas in ``metrics``."""

    name = "sparsity"

    def observer(self, subject: Subject) -> SparsityObserver:
        return SparsityObserver(subject)
