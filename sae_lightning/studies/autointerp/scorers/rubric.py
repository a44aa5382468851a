"""The specificity rubric: how well does the explanation say what a unit is active on, at every level of activation?"""

from collections.abc import Mapping, Sequence

import numpy as np

from sae_lightning.studies.autointerp.parts import Trial
from sae_lightning.studies.autointerp.prompts import GRADE_ASK, GRADE_SYSTEM, marked
from sae_lightning.studies.autointerp.records import Record
from sae_lightning.studies.autointerp.scorers.judge import ChatScorer, Question

GRADES: Mapping[str, float] = {"0": 0.0, "1": 1.0, "2": 2.0, "3": 3.0}


class RubricScorer(ChatScorer):
    """``grade expected_grade``: mean grade from 0 (nothing to do with the text) to 3 (says exactly what is marked).

    A judge grades held stretches with the active tokens marked, an equal number of each level where there are as many,
    so that weak activations count like strong ones. ``expected_grade`` takes the mean grade under the judge's
    probabilities in place of the one it says; NaN where those are not known.

    Source: Templeton et al. 2024, "Scaling Monosemanticity", section on specificity; the wording is ours.
    """

    name = "rubric"
    system = GRADE_SYSTEM
    ask = GRADE_ASK
    choices = GRADES

    def questions(self, record: Record) -> list[Question]:
        return [
            Question(stretch.level, None, marked(stretch.pieces, np.asarray(stretch.values > 0)))
            for stretch in self.held(record)
        ]

    def values(self, trials: Sequence[Trial]) -> dict[str, float]:
        said = [trial.said for trial in trials if trial.said is not None]
        expected = [trial.expected for trial in trials if trial.said is not None]
        known = [value for value in expected if value is not None]
        return {
            "grade": float(np.mean(said)) if said else float("nan"),
            "expected_grade": float(np.mean(known)) if known and len(known) == len(said) else float("nan"),
        }
