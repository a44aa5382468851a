"""Detection: can one tell from the explanation in which stretches a unit is active?"""

from collections.abc import Sequence

import numpy as np

from sae_lightning.studies.autointerp.parts import Trial
from sae_lightning.studies.autointerp.prompts import DETECT_ASK, DETECT_SYSTEM, marked
from sae_lightning.studies.autointerp.records import Record, Stretch
from sae_lightning.studies.autointerp.scorers.judge import YES_NO, ChatScorer, Question, yes_no_values


class DetectionScorer(ChatScorer):
    """``balanced_accuracy f1 auc``: is the unit active in this stretch, yes or no; nothing is marked.

    Asked about held stretches of all levels and as many silent ones, so that half of the answers should be yes.

    Source: Paulo et al. 2024, "Automatically interpreting millions of features in large language models".
    """

    name = "detection"
    system = DETECT_SYSTEM
    ask = DETECT_ASK
    choices = YES_NO

    def questions(self, record: Record) -> list[Question]:
        held = self.held(record)
        return [
            *(Question(stretch.level, True, _plain(stretch)) for stretch in held),
            *(Question(stretch.level, False, _plain(stretch)) for stretch in record.silent[: len(held)]),
        ]

    def values(self, trials: Sequence[Trial]) -> dict[str, float]:
        return yes_no_values(trials)


def _plain(stretch: Stretch) -> str:
    return marked(stretch.pieces, np.zeros(len(stretch.pieces), np.bool_))
