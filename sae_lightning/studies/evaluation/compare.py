"""Which of several SAEs is better, and which differences are noise?"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.core import UserError, derive_seed
from sae_lightning.studies.meaning import Better, better
from sae_lightning.studies.study import Cell, ComparativeStudy, Estimate, Result, Table
from sae_lightning.studies.subject import Subject

COLUMNS = ("study", "metric", "a", "b", "value_a", "value_b", "difference", "low", "high", "verdict")
# Share of figures below which a difference is rounding, which falls another way on another processor.
_ROUNDING = 1e-6
SAME = "indistinguishable"
NO_INTERVAL = "no interval"


class CompareStudy(ComparativeStudy):
    """``value_a - value_b`` of every figure that two SAEs share, with its 95 % interval; one table, ``differences``.

    Both SAEs' bootstrap draws are of the same windows, so the interval is that of ``draw_a - draw_b``, draw by draw:
    what makes a window hard for both cancels, and a difference may be sure where the two intervals overlap. SAEs with
    different masks keep different tokens of a window; their draws are then paired at random, as of independent samples,
    which gives a wider interval, and a note says so.

    verdict: ``indistinguishable`` where the interval holds 0; else ``NAME better``, by the direction that the metric
    has (``studies.meaning``), or ``NAME higher`` where neither way is better. ``l2_ratio`` and the like are better the
    nearer to 1: ``NAME better`` where the difference of the distances is sure too. ``no interval`` where one of the two
    figures has none (too few windows). No correction for many comparisons: of twenty figures that do not differ, one
    may seem to.

    Raises UserError for SAEs measured on different windows, at different sites or on different language models.
    """

    name: ClassVar[str] = "compare"

    def reason_all(self, subjects: Mapping[str, Subject]) -> str | None:
        if reason := super().reason_all(subjects):
            return reason
        first, *others = subjects
        for other in others:
            if not _same_windows(subjects[first], subjects[other]):
                return f"{first} and {other} are measured on different windows of data; evaluate them on the same ones"
            if _where(subjects[first]) != _where(subjects[other]):
                return (
                    f"{first} and {other} are measured at different sites or language models; their figures stand alone"
                )
        return None

    def run_all(self, subjects: Mapping[str, Subject], results: Mapping[str, Mapping[str, Result]]) -> Result:
        if reason := self.reason_all(subjects):
            raise UserError(f"compare: {reason}")
        estimates: dict[str, Estimate] = {}
        rows: list[tuple[Cell, ...]] = []
        unpaired: list[str] = []
        for a, b in combinations(subjects, 2):
            paired = _mask(subjects[a]) == _mask(subjects[b])
            if not paired:
                unpaired.append(f"{a} and {b}")
            for study, metric, one, other in _shared(results[a], results[b]):
                found = _difference(one, other, metric, paired)
                if found is None:
                    continue
                estimate, nearer = found
                values = (one.values[metric], other.values[metric])
                word = _verdict(a, b, estimate, better(metric), nearer, max(abs(value or 0.0) for value in values))
                rows.append((study, metric, a, b, *values, estimate.value, estimate.low, estimate.high, word))
                estimates[f"{study}/{metric}: {a} - {b}"] = estimate
        notes = (
            (f"different masks, so differences are not paired token by token: {'; '.join(unpaired)}",)
            if unpaired
            else ()
        )
        caption = "Differences a - b, with 95 % intervals over the windows that both were measured on"
        return Result(estimates, {"differences": Table(COLUMNS, tuple(rows), caption)}, notes)


def _same_windows(a: Subject, b: Subject) -> bool:
    """Return whether window i of one subject holds the same tokens as window i of the other."""
    if a.given is not None and b.given is not None:
        return torch.equal(a.given.token_index, b.given.token_index) and torch.equal(a.given.x, b.given.x)
    if list(a.numbers) != list(b.numbers):
        return False
    if a.truth is not None and b.truth is not None:
        return a.truth.parameters() == b.truth.parameters()
    if a.harvester is not None and b.harvester is not None:
        return a.harvester.windows.identity() == b.harvester.windows.identity()
    return False


def _where(subject: Subject) -> Any:
    """Return at which sites of which language model a subject is measured."""
    if subject.harvester is None or subject.lm is None:
        return None
    return subject.lm.identity()["sha256"], subject.harvester.sites


def _mask(subject: Subject) -> Any:
    return None if subject.harvester is None else subject.harvester.mask


def _shared(one: Mapping[str, Result], other: Mapping[str, Result]) -> Iterator[tuple[str, str, Result, Result]]:
    """Yield study, metric and both results, for every figure that both have."""
    for study, result in one.items():
        if study in other:
            for metric in result.estimates:
                if metric in other[study].estimates:
                    yield study, metric, result, other[study]


def _difference(one: Result, other: Result, metric: str, paired: bool) -> tuple[Estimate, int] | None:
    """Return a - b, and which is surely nearer to 1: -1 the first, 1 the second, 0 neither. None without draws."""
    a, b = one.estimates[metric], other.estimates[metric]
    draws_a, draws_b = one.draws.get(metric), other.draws.get(metric)
    if a.value is None or b.value is None or draws_a is None or draws_b is None or draws_a.shape != draws_b.shape:
        return None
    tails = [_tail(a, draws_a), _tail(b, draws_b)]
    if not paired:
        rng = np.random.default_rng(derive_seed(0, "studies", "compare", metric))
        draws_b = draws_b[rng.permutation(len(draws_b))]

    def limits(value: float, draws: NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
        defined = draws[np.isfinite(draws)]
        known = [tail for tail in tails if tail is not None]
        if len(known) < 2 or len(defined) < 0.9 * len(draws):
            return None, None
        low, high = np.quantile(defined, [min(known), 1 - min(known)])
        return min(float(low), value), max(float(high), value)

    difference = a.value - b.value
    estimate = Estimate(difference, *limits(difference, draws_a - draws_b), min(a.tokens, b.tokens))
    low, high = limits(abs(a.value - 1) - abs(b.value - 1), np.abs(draws_a - 1) - np.abs(draws_b - 1))
    none = _ROUNDING * max(abs(a.value - 1), abs(b.value - 1))
    return estimate, 0 if low is None or high is None else (low > none) - (high < -none)


def _tail(estimate: Estimate, draws: NDArray[np.float64]) -> float | None:
    """Return the share of its own draws that an interval leaves out at either end; None where there is no interval.

    The fewer units (windows, texts, features) the draws are of, the less ``metrics.interval`` leaves out. A study knows
    its units; what it left out carries them over to differences.
    """
    if estimate.low is None or estimate.high is None:
        return None
    if np.isclose(np.nanmin(draws), np.nanmax(draws), rtol=1e-9, atol=0):
        return 0.5  # all the same but for rounding
    # Interpolated between two draws, so half of the last one outside is inside.
    outside = min(float((draws < estimate.low).mean()), float((draws > estimate.high).mean()))
    return max(0.0, outside - 0.5 / len(draws))


def _verdict(a: str, b: str, difference: Estimate, way: Better | None, nearer: int, size: float) -> str:
    """Return what the difference a - b says. size: of the figures, of which a millionth is rounding."""
    value, low, high = difference.value, difference.low, difference.high
    if value is None or low is None or high is None:
        return NO_INTERVAL
    if low <= 0 <= high or max(-low, high) <= _ROUNDING * size:
        return SAME
    if way == "one" and nearer:
        return f"{a if nearer < 0 else b} better"
    if way in (None, "one"):
        return f"{a if value > 0 else b} higher"
    return f"{a if (value < 0) == (way == 'lower') else b} better"
