"""Studies whose figures are formulas of sums over windows: one pass of the data feeds all of them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.metrics import FEWEST, POOLED, Moments, RunningMetric, bootstrap_weights, interval, linearised
from sae_lightning.studies.passes import Pass, Window, read_unit
from sae_lightning.studies.progress import track
from sae_lightning.studies.study import Estimate, Result, Study, Table, defined
from sae_lightning.studies.subject import Subject, inference

__all__ = ["Crew", "Measured", "Pass", "Solo", "Window", "WindowStudy", "measure_all"]

DRAWS = 1000
# Units that are kept to be read again in the second round: so many bytes of rows.
_KEPT_BYTES = 1 << 30

#: Of each study, the metrics of each window, by the window's number.
Measured = dict[str, dict[int, tuple[RunningMetric, ...]]]


class WindowStudy(Study):
    """A study that measures each window by itself: ``measure`` gives fresh metrics a window, the rest follows.

    Figures are those of all windows' metrics merged in the order of their numbers, so they depend neither on the order
    in which windows were read nor on who read them. Intervals: a bootstrap over windows (``metrics.bootstrap``).

    linear: shares whose draws are made linear at the estimate (see ``metrics.linearised``).
    needs_mean: whether ``unit.mean`` is read, which costs one more pass of the data (kept in memory where it fits).
    """

    linear: ClassVar[frozenset[str]] = frozenset()
    needs_mean: bool = False
    show_progress: bool = True

    @abstractmethod
    def measure(self, subject: Subject, unit: Pass) -> list[tuple[RunningMetric, ...]]:
        """Return the metrics of each window of ``unit``, in its order."""

    def n_windows(self, subject: Subject) -> int:
        """Return how many of the subject's windows, from the first, are measured."""
        return len(subject.numbers)

    def tables(self, subject: Subject, metrics: tuple[RunningMetric, ...]) -> dict[str, Table]:
        """Return what else the merged metrics tell."""
        return {}

    def run(self, subject: Subject) -> Result:
        return measure_all(subject, [self], show_progress=self.show_progress)[self.name]


class Crew(Protocol):
    """Whoever reads the units: this process, or several."""

    def moments(self, units: Sequence[list[int]]) -> dict[int, Moments]:
        """Return the moments of y in each window."""
        ...

    def measure(self, units: Sequence[list[int]], mean: Tensor | None) -> Measured:
        """Return every study's metrics of each window."""
        ...


class Solo:
    """This process. Units that were read for the mean are kept for the measurements while they fit in memory."""

    def __init__(self, subject: Subject, studies: Sequence[WindowStudy], show_progress: bool = True) -> None:
        self.subject, self.studies, self.show_progress = subject, studies, show_progress
        self._kept: dict[int, Pass] = {}
        self._bytes = 0

    def moments(self, units: Sequence[list[int]]) -> dict[int, Moments]:
        out: dict[int, Moments] = {}
        for numbers in track(units, len(units), "mean of the activations", self.show_progress):
            unit = self._keep(read_unit(self.subject, numbers))
            for number, (a, b) in zip(unit.numbers, zip(unit.offsets, unit.offsets[1:], strict=False), strict=True):
                rows = unit.y[a:b].double()
                moments = Moments.of(rows) if len(rows) else Moments.empty(rows.shape[1], rows.device)
                out[number] = Moments(*(value.cpu() for value in moments))
        return out

    def measure(self, units: Sequence[list[int]], mean: Tensor | None) -> Measured:
        order = {number: place for place, number in enumerate(int(n) for n in self.subject.numbers)}
        out: Measured = {study.name: {} for study in self.studies}
        what = ", ".join(study.name for study in self.studies)
        with inference(self.subject.sae):
            for numbers in track(units, len(units), what, self.show_progress):
                unit = self._kept.pop(numbers[0], None) or read_unit(self.subject, numbers)
                unit = replace(unit, mean=None if mean is None else mean.to(self.subject.device))
                for study in self.studies:
                    wanted = sum(order[number] < study.n_windows(self.subject) for number in numbers)
                    if wanted:
                        part = unit.head(wanted)
                        metrics = study.measure(self.subject, part)
                        out[study.name] |= dict(zip(part.numbers, metrics, strict=True))
        return out

    def _keep(self, unit: Pass) -> Pass:
        size = unit.x.numel() * 4 * (1 if unit.y is unit.x else 2)
        if unit.text is not None:
            size += unit.text.acts.numel() * unit.text.acts.element_size()
        if self._bytes + size < _KEPT_BYTES:
            self._bytes += size
            self._kept[unit.numbers[0]] = unit
        return unit


def measure_all(
    subject: Subject,
    studies: Sequence[WindowStudy],
    *,
    mean: Tensor | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    crew: Crew | None = None,
    show_progress: bool = True,
) -> dict[str, Result]:
    """Return each study's result, from one pass of the subject's windows.

    mean: of y over all windows where it is known; else it is measured first if a study needs it. crew: who reads.
    draws, seed: of the bootstrap.
    """
    most = max((study.n_windows(subject) for study in studies), default=0)
    units, have = [], 0
    for unit in subject.units():
        if have < most:
            units.append(unit)
            have += len(unit)
    if not units:
        read_unit(subject, [])  # says what is missing
    crew = crew or Solo(subject, studies, show_progress)
    if mean is None and any(study.needs_mean for study in studies):
        found = crew.moments(units)
        total = Moments.empty(subject.sae.d_out)
        for number in sorted(found):
            total = total.join(found[number])
        mean = total.mean
    measured = crew.measure(units, None if mean is None else mean.double())
    return {study.name: _result(study, subject, measured[study.name], draws, seed) for study in studies}


def _result(
    study: WindowStudy, subject: Subject, windows: Mapping[int, tuple[RunningMetric, ...]], draws: int, seed: int
) -> Result:
    ordered = [windows[number] for number in sorted(windows)]
    estimates: dict[str, Estimate] = {}
    found: dict[str, NDArray[np.float64]] = {}
    totals: list[RunningMetric] = []
    weights = bootstrap_weights(len(ordered), draws, seed)
    for parts in zip(*ordered, strict=True):
        states = {name: torch.stack([part.state()[name].cpu() for part in parts]) for name in parts[0].state()}
        total = parts[0]
        total.load_state({name: value[0].clone() for name, value in states.items()})
        for number in range(1, len(parts)):
            total.merge(_moved(parts[number]))
        totals.append(total)
        tokens = int(total.state()["n"])
        drawn = _draws(total, states, weights, study.linear)
        for name, value in defined(total.compute()).items():
            limits = None if value is None else interval(value, drawn[name], len(ordered))
            low, high = limits or (None, None)
            estimates[name] = Estimate(value, low, high, tokens)
            found[name] = drawn[name]
    few = f"{len(ordered)} windows: intervals need at least {FEWEST}; raise tokens"
    notes = (few,) if draws and len(ordered) < FEWEST else ()
    return Result(estimates, study.tables(subject, tuple(totals)), notes, found)


def _moved(metric: RunningMetric) -> RunningMetric:
    metric.load_state({name: value.cpu() for name, value in metric.state().items()})
    return metric


def _draws(
    metric: RunningMetric, states: Mapping[str, Tensor], weights: Tensor, linear: frozenset[str]
) -> dict[str, NDArray[np.float64]]:
    size = sum(value[0].numel() for value in states.values())
    parts = [metric.values(metric.pool(states, part)) for part in weights.split(max(1, POOLED // max(1, size)))]
    drawn = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if len(weights) and not linear.isdisjoint(drawn):
        drawn |= {name: value for name, value in linearised(metric, states, weights).items() if name in linear}
    return {name: value.numpy() for name, value in drawn.items()}
