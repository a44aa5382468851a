"""The figures of a lane's steps: noted as scalars on the device, read in one go when somebody asks."""

import math

import torch
from torch import Tensor

from sae_lightning.losses import Objective, Reconstruction, StepContext

# Steps that are kept one by one for an average.
_MOST_KEPT = 1024
# What is noted of a step after its loss terms, in this order.
_LOSS, _ERROR, _VARIANCE, _ACTIVE, _L1, _FIRED = range(6)


class StepFigures:
    """What each step showed: losses, reconstruction, sparsity.

    Not saved: the first average after a restart is over the steps since it.

    ``note`` leaves scalars where they are, so that no step waits for the device; ``read`` fetches those of all steps
    since the last reading at once. The loss terms are the same ones in every step of a run.
    counts: on how many rows of the last batch each feature was active. terms: its loss terms, unweighted.

    Where other processes hold other rows (or features), ``note`` notes this one's part. ``parts`` gives what has to be
    added up over processes and ``take`` puts the sums in its place, before anybody reads.

    Where the objective has a plain ``Reconstruction``, its value is the error and is not computed again.
    """

    def __init__(self, objective: Objective) -> None:
        self._base = next(((n, term) for n, term in objective.terms.items() if type(term) is Reconstruction), None)
        self.counts: Tensor | None = None
        self.terms: dict[str, Tensor] = {}
        self.last: list[Tensor] = []
        self._rows = self._d_out = self._d_sae = 1
        self._noted: list[tuple[int, list[Tensor]]] = []  # rows of the step, and its scalars
        self._kept: list[list[float]] = []
        self._sums: list[list[float]] = []  # of _MOST_KEPT steps each

    @property
    def waiting(self) -> int:
        """Number of steps that were noted and not read."""
        return len(self._noted)

    def note(self, context: StepContext, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Note a step, in as few operations as will do: every step pays for them. Call it without gradients."""
        y, features = context.batch.y, context.out.features
        self.counts = counts = features.counts()
        self.terms, self._d_sae = terms, context.sae.d_sae
        self._rows, self._d_out = context.rows, y.shape[1]
        self.last = [
            loss.detach(),
            *self._error_and_variance(context, terms),
            counts.sum(),
            features.values.abs().sum(dtype=torch.float32),
            torch.count_nonzero(counts),
        ]
        self._noted.append((self._rows, [*self.last, *terms.values()]))

    def parts(self, share: float, *, sharded: bool = False) -> Tensor:
        """Return the last step's scalars as summands: their sum over the processes is that of the whole batch.

        share: of the batch's rows, this process's. What is a mean over rows, or the same for all, counts for it.
        sharded: every process has all rows, and other features.
        """
        scalars = [value.float() for value in self._noted[-1][1]]
        additive = {_ACTIVE, _L1, _FIRED} | ({_ERROR} if self._base is None and not sharded else set())
        return torch.stack([v if i in additive else v * share for i, v in enumerate(scalars)])

    def take(self, sums: Tensor, counts: Tensor | None = None) -> None:
        """Put the sums of all processes' ``parts`` in the place of the last step's, and of ``counts`` where given."""
        scalars = list(sums.unbind())
        if counts is not None:
            self.counts = counts
            scalars[_ACTIVE], scalars[_FIRED] = counts.sum(), torch.count_nonzero(counts)
        self.last = scalars[: _FIRED + 1]
        self.terms = dict(zip(self.terms, scalars[_FIRED + 1 :], strict=True))
        self._noted[-1] = (self._rows, scalars)

    def _error_and_variance(self, context: StepContext, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return two scalars that ``_per_token`` makes the batch's error and variance of."""
        # Not `vector_norm`: on the CPU it adds up float32 in a row and loses three digits of a large batch.
        y = context.batch.y
        if self._base is None:
            return (y - context.out.y_hat).float().square_().sum(), self._around_mean(context)
        name, term = self._base
        if term.normalise == "variance":
            return terms[name], context.target_variance()
        return terms[name], self._around_mean(context)

    @staticmethod
    def _around_mean(context: StepContext) -> Tensor:
        """Return ``sum_token ||y - mean(y)||^2`` of the whole batch."""
        y = context.batch.y
        if context.ranks.alone:
            return (y - y.mean(0)).float().square_().sum()
        return context.variance(y.float()) * context.rows

    def _per_token(self, error: float, variance: float, rows: int) -> tuple[float, float, float]:
        """Return ``mean_token ||y - y_hat||^2``, ``mean_token ||y - mean(y)||^2`` and their ratio, the fvu."""
        if self._base is None:
            return error / rows, variance / rows, _ratio(error, variance)
        _, term = self._base
        error /= term.per_token_factor(1, self._d_out, 1)
        if term.normalise == "variance":
            return error * variance, variance, error
        return error, variance / rows, _ratio(error, variance / rows)

    def read(self) -> list[tuple[float, float]]:
        """Return (loss, l0) of each step since the last reading (one host sync); the rest is kept for ``averages``."""
        noted, self._noted = self._noted, []
        if not noted:
            return []
        # Stacked as they are: float32 and int64 give float32.
        steps = torch.stack([value for _, step in noted for value in step]).view(len(noted), -1).tolist()
        for (rows, _), step in zip(noted, steps, strict=True):
            step[_ERROR], step[_VARIANCE], fvu = self._per_token(step[_ERROR], step[_VARIANCE], rows)
            step[_ACTIVE], step[_L1] = step[_ACTIVE] / rows, step[_L1] / rows
            step.append(fvu)
        self._kept += steps
        while len(self._kept) > _MOST_KEPT:
            self._sums.append(_sum(self._kept[:_MOST_KEPT]))
            del self._kept[:_MOST_KEPT]
        return [(step[_LOSS], step[_ACTIVE]) for step in steps]

    def averages(self) -> dict[str, float]:
        """Return the means over the steps since the last call, however often they were read; empty where none was."""
        self.read()
        steps = len(self._sums) * _MOST_KEPT + len(self._kept)
        if not steps:
            return {}
        mean = [value / steps for value in _sum([*self._sums, *self._kept])]
        self._sums, self._kept = [], []
        *_, fvu = mean
        return {
            **{f"loss/{name}": value for name, value in zip(self.terms, mean[_FIRED + 1 :], strict=False)},
            "loss/total": mean[_LOSS],
            "metrics/fvu": fvu,
            "metrics/mse": mean[_ERROR] / self._d_out,
            "sparsity/l0": mean[_ACTIVE],
            "sparsity/l1": mean[_L1],
            "sparsity/active_per_batch": mean[_FIRED] / self._d_sae,
        }

    def variance(self) -> float:
        """Return ``mean_token ||y - mean(y)||^2`` of the last batch (one host sync)."""
        return self._per_token(float(self.last[_ERROR]), float(self.last[_VARIANCE]), self._rows)[1]

    def last_fvu_l0(self) -> tuple[float, float]:
        """Return fvu and l0 of the last batch (one host sync)."""
        error, variance, active = (float(self.last[number]) for number in (_ERROR, _VARIANCE, _ACTIVE))
        return self._per_token(error, variance, self._rows)[2], active / self._rows


def _ratio(error: float, variance: float) -> float:
    if variance:
        return error / variance
    return math.inf if error > 0 else math.nan


def _sum(steps: list[list[float]]) -> list[float]:
    """Return the sum of each column, in float64 and step by step: the same however often the steps were read."""
    return [sum(column) for column in zip(*steps, strict=True)]
