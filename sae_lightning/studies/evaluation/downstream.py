"""What does the language model lose when the reconstruction takes the activation's place?"""

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from sae_lightning.core import TokenBatch, UserError
from sae_lightning.lm.crossentropy import kl, loss, predicted
from sae_lightning.metrics import DownstreamLoss, RunningMetric
from sae_lightning.studies.passes import Pass
from sae_lightning.studies.splice import Splice, splices, text_chunks, windows_at_a_time
from sae_lightning.studies.study import Result
from sae_lightning.studies.subject import NEEDS_LM, Subject
from sae_lightning.studies.windows import WindowStudy


class DownstreamStudy(WindowStudy):
    """``ce_clean ce_spliced delta_ce kl ce_recovered_zero ce_recovered_mean ...``, formulas in ``DownstreamLoss``.

    Four runs of the language model per window, in chunks that bound memory: clean, spliced, zero and mean ablation.
    All edits are made where the keep mask of training is True; masked positions keep what the model computes. Losses
    count at every position whose *target* is a real token, masked or not. The clean run goes through the same code as
    the edited ones, so an identity SAE scores ``delta_ce`` 0, ``kl`` 0 and ``ce_recovered`` 1 exactly. Mean ablation
    writes the mean of the kept activations of all the subject's windows. A transcoder is written in place of what it
    predicts, a crosscoder at all its sites at once. Of two models side by side each has its own runs, with what is
    written in it alone, and figures of its own: ``delta_ce/base``, ``delta_ce/tuned``.

    tokens: measured on the first windows that hold so many positions; null: on all.
    """

    name: ClassVar[str] = "downstream"
    needs_mean = True

    def __init__(self, tokens: Annotated[int, Ge(1)] | None = None, show_progress: bool = True) -> None:
        self.tokens = tokens
        self.show_progress = show_progress

    def n_windows(self, subject: Subject) -> int:
        return len(subject.windows) if self.tokens is None else -(-self.tokens // subject.window_tokens)

    def reason(self, subject: Subject) -> str | None:
        if not subject.has_lm:
            return NEEDS_LM
        return None

    def run(self, subject: Subject) -> Result:
        if reason := self.reason(subject):
            raise UserError(f"downstream losses: {reason}")
        return super().run(subject)

    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        assert subject.lm is not None
        assert subject.harvester is not None
        assert unit.text is not None
        assert unit.mean is not None
        sites, mean = subject.harvester.sites.write, unit.mean.float()
        out: list[tuple[RunningMetric, ...]] = []
        for part, rows in text_chunks(unit, windows_at_a_time(subject.lm, subject.window_tokens)):
            found: list[list[DownstreamLoss]] = []
            for member, (splice, columns) in splices(subject.lm, sites, part).items():
                y_hat, own_mean = unit.y_hat[rows], mean
                if member is not None:
                    columns = columns.to(mean.device)
                    y_hat, own_mean = y_hat[:, columns], mean[columns]
                written: dict[str, Callable[[], Tensor]] = {
                    "spliced": lambda y_hat=y_hat: y_hat,
                    "zero": lambda y_hat=y_hat: torch.zeros_like(y_hat),
                    "mean": lambda y_hat=y_hat, own_mean=own_mean: own_mean.expand(len(y_hat), -1),
                }
                found.append(_measure(splice, part.tokens, written, member))
            out += zip(*found, strict=True)
        return out


def _measure(
    splice: Splice, batch: TokenBatch, written: dict[str, Callable[[], Tensor]], of: str | None
) -> list[DownstreamLoss]:
    """Return each window's losses in the clean run and with each of ``written`` in place."""
    clean = splice.clean()
    real = predicted(batch.mask).to(clean.device)
    metrics = [DownstreamLoss(of=of) for _ in range(len(real))]
    losses = loss(clean, batch.tokens)
    for i, metric in enumerate(metrics):
        metric.update_clean(losses[i][real[i]])
    for run, make in written.items():
        logits = splice.run(make())
        losses, divergences = loss(logits, batch.tokens), kl(clean[:, :-1], logits[:, :-1])
        for i, metric in enumerate(metrics):
            metric.update_run(run, losses[i][real[i]], divergences[i][real[i]])
    return metrics
