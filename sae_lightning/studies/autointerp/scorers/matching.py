"""Matching: does a judge choose a unit's explanation, among those of other units, where the unit is active?"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge

from sae_lightning.core import derive_seed
from sae_lightning.studies.autointerp.clients.client import Answer, Client, Request
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.parts import Scores, Trial
from sae_lightning.studies.autointerp.prompts import MATCH_ASK, MATCH_SYSTEM, match_messages, one_line
from sae_lightning.studies.autointerp.records import Record
from sae_lightning.studies.autointerp.scorers.detection import DetectionScorer
from sae_lightning.studies.autointerp.scorers.judge import Question

_LONGEST = 120
_MAX_TOKENS = 48


class MatchingScorer(DetectionScorer):
    """``balanced_accuracy f1 auc``: which of 1 + ``strangers`` explanations fits this stretch; nothing is marked.

    Asked about the stretches of detection, and every time with the same strangers, drawn from the other explanations
    that are scored. Right is to choose the explanation where the unit is active and another one where it is not;
    ``auc`` compares the probability of the explanation over a unit's stretches, so what a judge thinks likely
    whatever the text cancels out. Of a unit that is given another's explanation the own is no stranger: beside it no
    other would be chosen, and the baseline would lie below chance. A small model that can't say yes or no can still do
    this (experiments/judge). Without another explanation to choose there are no scores.

    strangers: how many. per_level: held stretches of each level that are asked about; null: all. seed: of the draw.
    """

    name = "matching"
    system = MATCH_SYSTEM
    ask = MATCH_ASK

    def __init__(
        self,
        client: Client,
        strangers: Annotated[int, Ge(1)] = 5,
        per_level: Annotated[int, Ge(1)] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(client, per_level, seed)
        self.strangers = strangers

    def score(
        self,
        records: Sequence[Record],
        explanations: Sequence[Explanation | None],
        own: Sequence[Explanation | None] | None = None,
    ) -> list[Scores | None]:
        texts = _lines(explanations)
        asked: list[tuple[int, Question, Request]] = []
        for number, (record, text, true) in enumerate(zip(records, texts, _lines(own or explanations), strict=True)):
            choices = None if text is None else self._choices(record, text, true, texts)
            for question in self.questions(record) if choices is not None else ():
                messages = match_messages(choices or (), question.shown)
                asked.append((number, question, Request(messages, _MAX_TOKENS, choices or (), seed=self.seed)))
        answers = self.client.ask([request for *_, request in asked], self.name)
        trials: dict[int, list[Trial]] = {}
        for (number, question, _), answer in zip(asked, answers, strict=True):
            trials.setdefault(number, []).append(_matched(question, texts[number], answer))
        return [
            Scores(self.values(trials[number]), tuple(trials[number])) if number in trials else None
            for number in range(len(records))
        ]

    def _choices(
        self, record: Record, said: str, true: str | None, texts: Sequence[str | None]
    ) -> tuple[str, ...] | None:
        """Return an explanation among strangers', in an order that says nothing; None where there is no other."""
        others = {text.casefold(): text for text in texts if text}
        for mine in (said, true or ""):
            others.pop(mine.casefold(), None)
        if not said or not others:
            return None
        names = sorted(others)
        rng = np.random.default_rng(derive_seed(self.seed, "autointerp", "matching", str(record.unit)))
        drawn = rng.choice(len(names), min(self.strangers, len(names)), replace=False)
        return tuple(sorted((said, *(others[names[place]] for place in drawn))))


def _lines(explanations: Sequence[Explanation | None]) -> list[str | None]:
    return [None if said is None else one_line(said.text, _LONGEST) for said in explanations]


def _matched(question: Question, own: str | None, answer: Answer) -> Trial:
    said = None if answer.text is None else float(answer.text == own)
    chance = None if answer.probabilities is None else answer.probabilities[own or ""]
    return Trial(question.level, question.truth, said, chance, answer.problem, question.shown)
