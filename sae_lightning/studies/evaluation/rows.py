"""Studies of rows: one forward pass of the SAE over held-out rows feeds any number of them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from sae_lightning.core import ActivationBatch, SAEOutput
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Result, Study, defined
from sae_lightning.studies.subject import Subject, inference


class RowObserver(Protocol):
    """What a row study keeps while rows go by."""

    def observe(self, batch: ActivationBatch, out: SAEOutput) -> None:
        """Take in one batch of raw rows and the SAE's output on it."""
        ...

    def values(self) -> dict[str, float]:
        """Return the study's numbers; NaN where one has no value."""
        ...


class RowStudy(Study):
    """A study that only needs held-out rows and what the SAE makes of them."""

    def __init__(self, show_progress: bool = True) -> None:
        self.show_progress = show_progress

    @abstractmethod
    def observer(self, subject: Subject) -> RowObserver:
        """Return a fresh observer for ``subject``."""

    def run(self, subject: Subject) -> Result:
        observer = self.observer(subject)
        tokens = observe_rows(subject, [observer], self.name, self.show_progress)
        return Result(defined(observer.values()), tokens)


def observe_rows(subject: Subject, observers: Sequence[RowObserver], what: str, show_progress: bool = True) -> int:
    """Run the SAE once over the subject's rows for all ``observers``; return the number of tokens."""
    tokens = 0
    with inference(subject.sae):
        for batch in track(subject.row_batches(), subject.n_steps(), what, show_progress):
            out = subject.sae(batch.x)
            for observer in observers:
                observer.observe(batch, out)
            tokens += len(batch)
    return tokens
