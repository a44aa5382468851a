"""Fuzzing: can one tell from the explanation on which tokens a unit is active?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from sae_lightning.core import derive_seed
from sae_lightning.studies.autointerp.parts import Trial
from sae_lightning.studies.autointerp.prompts import FUZZ_ASK, FUZZ_SYSTEM, OPEN, marked
from sae_lightning.studies.autointerp.records import Record
from sae_lightning.studies.autointerp.scorers.judge import YES_NO, ChatScorer, Question, yes_no_values


class FuzzingScorer(ChatScorer):
    """``balanced_accuracy f1 auc``: are the marked tokens what the explanation says, yes or no.

    Every held stretch is asked about twice: with the tokens marked on which the unit is active, and with others. Those
    are the same marks moved on by a random number of tokens (around the end), so that they are as many and as long, to
    a place where they meet no active token; where there is none, single tokens that are not active, drawn at random.
    Left out are stretches that would not show the difference: active everywhere, or on parts of a character alone.

    Source: Paulo et al. 2024, "Automatically interpreting millions of features in large language models".
    """

    name = "fuzzing"
    system = FUZZ_SYSTEM
    ask = FUZZ_ASK
    choices = YES_NO

    def questions(self, record: Record) -> list[Question]:
        out = []
        unit = record.unit
        rng = np.random.default_rng(derive_seed(self.seed, "autointerp", "fuzzing", unit.kind, unit.layer, unit.index))
        for stretch in self.held(record):
            active = np.asarray(stretch.values > 0)
            right, wrong = (marked(stretch.pieces, marks) for marks in (active, elsewhere(active, rng)))
            if OPEN in right and OPEN in wrong:
                out += [Question(stretch.level, True, right), Question(stretch.level, False, wrong)]
        return out

    def values(self, trials: Sequence[Trial]) -> dict[str, float]:
        return yes_no_values(trials)


def elsewhere(active: Bool[NDArray, "n"], rng: np.random.Generator) -> Bool[NDArray, "n"]:
    """Return as many marks on tokens that are not active: of the same shape where that can be, else scattered."""
    n = len(active)
    free = [shift for shift in range(1, n) if not (np.roll(active, shift) & active).any()]
    if free:
        return np.roll(active, int(rng.choice(free)))
    others = np.flatnonzero(~active)
    marks = np.zeros(n, np.bool_)
    marks[rng.choice(others, min(len(others), int(active.sum())), replace=False)] = True
    return marks
