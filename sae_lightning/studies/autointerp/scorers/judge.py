"""A judge that is asked one question a stretch: what detection, fuzzing and the rubric share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from sae_lightning.studies.autointerp.clients.client import Answer, Client, Request
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.parts import Scores, Trial
from sae_lightning.studies.autointerp.prompts import judge_messages
from sae_lightning.studies.autointerp.records import Record, Stretch

_MAX_TOKENS = 4


@dataclass(frozen=True)
class Question:
    """A stretch as the judge sees it, its level, and what is right to say of it: None where nothing is."""

    level: int
    truth: bool | None
    shown: str


class ChatScorer(ABC):
    """Asks a chat model about stretches, one a question, and counts.

    per_level: at most so many held stretches of each level; null: all of them. Answers that could not be used are in
    ``Scores.trials`` with their problem and in no score; a record without an explanation has no scores.
    """

    name: str
    system: str
    ask: str
    #: What the judge may say, and the number that it stands for.
    choices: Mapping[str, float]

    def __init__(self, client: Client, per_level: Annotated[int, Ge(1)] | None = None, seed: int = 0) -> None:
        self.client, self.per_level, self.seed = client, per_level, seed

    @abstractmethod
    def questions(self, record: Record) -> list[Question]:
        """Return the questions about a unit: the same whatever the explanation."""

    @abstractmethod
    def values(self, trials: Sequence[Trial]) -> dict[str, float]:
        """Return the scores of one unit; NaN where the answers say none."""

    def score(
        self,
        records: Sequence[Record],
        explanations: Sequence[Explanation | None],
        own: Sequence[Explanation | None] | None = None,
    ) -> list[Scores | None]:
        asked = [
            (number, question, self._request(said.text, question))
            for number, (record, said) in enumerate(zip(records, explanations, strict=True))
            if said is not None
            for question in self.questions(record)
        ]
        answers = self.client.ask([request for _, _, request in asked], self.name)
        trials: list[list[Trial]] = [[] for _ in records]
        for (number, question, _), answer in zip(asked, answers, strict=True):
            trials[number].append(self._trial(question, answer))
        return [
            None if said is None else Scores(self.values(mine), tuple(mine))
            for said, mine in zip(explanations, trials, strict=True)
        ]

    def held(self, record: Record) -> list[Stretch]:
        """Return the active stretches that are asked about."""
        taken: dict[int, int] = {}
        out = []
        for stretch in record.held:
            taken[stretch.level] = taken.get(stretch.level, 0) + 1
            if self.per_level is None or taken[stretch.level] <= self.per_level:
                out.append(stretch)
        return out

    def _request(self, explanation: str, question: Question) -> Request:
        messages = judge_messages(self.system, self.ask, explanation, question.shown)
        return Request(messages, _MAX_TOKENS, choices=tuple(self.choices), seed=self.seed)

    def _trial(self, question: Question, answer: Answer) -> Trial:
        said = None if answer.text is None else self.choices.get(answer.text)
        expected = None
        if answer.probabilities is not None:
            expected = sum(share * self.choices[choice] for choice, share in answer.probabilities.items())
        problem = answer.problem or ("no choice" if said is None else None)
        return Trial(question.level, question.truth, said, expected, problem, question.shown)


YES_NO: Mapping[str, float] = {"yes": 1.0, "no": 0.0}


def yes_no_values(trials: Sequence[Trial]) -> dict[str, float]:
    """Return how well yes and no go with what is true, over the answers that could be used.

    ``balanced_accuracy``: mean of the share of the true said yes to and of the untrue said no to, 0.5 by chance and for
    who always says the same. ``f1``: 2 TP / (2 TP + FP + FN). ``auc``: the share of pairs of a true and an untrue
    stretch in which the judge's probability of yes is larger for the true one, ties counting half; NaN where
    probabilities are not known. NaN where either kind is missing.
    """
    usable = [trial for trial in trials if trial.said is not None]
    true = [trial for trial in usable if trial.truth]
    untrue = [trial for trial in usable if not trial.truth]
    if not true or not untrue:
        return dict.fromkeys(("balanced_accuracy", "f1", "auc"), float("nan"))
    hit = sum(trial.said or 0.0 for trial in true)
    false = sum(trial.said or 0.0 for trial in untrue)
    auc = float("nan")
    if all(trial.expected is not None for trial in usable):
        pairs = [(a.expected or 0.0, b.expected or 0.0) for a in true for b in untrue]
        auc = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    balanced = 0.5 * (hit / len(true) + 1 - false / len(untrue))
    return {"balanced_accuracy": balanced, "f1": 2 * hit / (hit + false + len(true)), "auc": auc}
