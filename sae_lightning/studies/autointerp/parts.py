"""The parts of an interpretation, each replaceable: who explains units, and who says how well an explanation holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.records import Record


@dataclass(frozen=True)
class Trial:
    """One question put to a judge about a stretch, and what came back.

    level: of the stretch. truth: what is right to say, None where nothing is right or wrong. said: the judge's answer
    as a number (yes 1, no 0; a grade), None where it could not be used. expected: the answer's mean under the judge's
    probabilities, None where those are not known. problem: what was wrong with an answer that could not be used.
    shown: the stretch as the judge saw it.
    """

    level: int
    truth: bool | None
    said: float | None
    expected: float | None
    problem: str | None
    shown: str


@dataclass(frozen=True)
class Scores:
    """How well one unit's explanation holds by one scorer.

    values: scores by name, NaN where there is none. trials: the questions behind them, for scorers that put any.
    """

    values: Mapping[str, float]
    trials: tuple[Trial, ...] = field(default=(), repr=False)

    @property
    def usable(self) -> int:
        """How many answers could be used."""
        return sum(trial.said is not None for trial in self.trials)


class Explainer(Protocol):
    """Says of each record's unit what makes it active; None where nothing came of it. name: for reports."""

    @property
    def name(self) -> str: ...

    def explain(self, records: Sequence[Record]) -> list[Explanation | None]: ...


class Scorer(Protocol):
    """Says how well explanations hold on the held and silent stretches of records; None where there is none.

    name: for reports, and the beginning of its scores' names there. own: the records' own explanations where others
    are dealt out to them; None: ``explanations`` are.
    """

    @property
    def name(self) -> str: ...

    def score(
        self,
        records: Sequence[Record],
        explanations: Sequence[Explanation | None],
        own: Sequence[Explanation | None] | None = None,
    ) -> list[Scores | None]: ...
