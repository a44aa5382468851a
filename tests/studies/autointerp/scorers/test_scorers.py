"""Scorers against judges whose answers are known, and their figures against counting by hand."""

import re
from itertools import product

import numpy as np
import pytest

from sae_lightning.studies.autointerp.clients.client import Answer, Request
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.parts import Trial
from sae_lightning.studies.autointerp.records import SILENT
from sae_lightning.studies.autointerp.scorers import DetectionScorer, FuzzingScorer, RubricScorer
from sae_lightning.studies.autointerp.scorers.fuzzing import elsewhere
from sae_lightning.studies.autointerp.scorers.judge import yes_no_values
from tests.studies.autointerp.scripted import Scripted, record


def parts(request: Request) -> tuple[str, str]:
    """Return (explanation, text) of what a judge is asked."""
    found = re.search(r"Description: (.*)\nText: (.*)\n", request.messages[-1][1])
    assert found is not None
    return found[1], found[2]


def knows(request: Request) -> str:
    """Judge well: the explanation is the word that the unit is active on."""
    word, text = parts(request)
    if "3" in request.choices:
        return "3" if f"<<{word}>>" in text else "1" if word in text else "0"
    return "yes" if (f"<<{word}>>" in text if "<<" in text else word in text.split()) else "no"


WORDS = ["king", "queen", "bishop", "knight"]
RECORDS = [record(i, word) for i, word in enumerate(WORDS)]
OWN = [Explanation(word, "test") for word in WORDS]
OTHERS = [OWN[1], OWN[2], OWN[3], OWN[0]]


@pytest.mark.parametrize("scorer", [DetectionScorer, FuzzingScorer])
def test_a_judge_that_knows_is_always_right_and_of_another_s_explanation_never_says_yes(scorer) -> None:
    for scores in scorer(Scripted(knows)).score(RECORDS, OWN):
        assert scores.values["balanced_accuracy"] == scores.values["f1"] == 1.0
        assert np.isnan(scores.values["auc"])  # nobody gave probabilities
        assert len(scores.trials) == scores.usable == 50
        assert {trial.level for trial in scores.trials if trial.truth} == set(range(5))
        assert sum(bool(trial.truth) for trial in scores.trials) == 25
    for scores in scorer(Scripted(knows)).score(RECORDS, OTHERS):
        assert scores.values["balanced_accuracy"] == 0.5
        assert scores.values["f1"] == 0.0


def test_detection_shows_no_marks_and_fuzzing_the_same_stretches_with_right_and_wrong_ones() -> None:
    detection = DetectionScorer(Scripted(knows)).questions(RECORDS[0])
    assert not any("<<" in question.shown for question in detection)
    assert {question.level for question in detection if not question.truth} == {SILENT}
    fuzzing = FuzzingScorer(Scripted(knows)).questions(RECORDS[0])
    for right, wrong in zip(fuzzing[::2], fuzzing[1::2], strict=True):
        assert (right.truth, wrong.truth) == (True, False)
        assert right.level == wrong.level
        assert re.sub("<<|>>", "", right.shown) == re.sub("<<|>>", "", wrong.shown)
        assert right.shown.count("<<king>>") == right.shown.count("<<") == wrong.shown.count("<<") == 1
        assert "<<king>>" not in wrong.shown


def test_wrong_marks_are_as_many_and_meet_no_active_token() -> None:
    rng = np.random.default_rng(0)
    for n, share, _ in product((2, 5, 20), (0.05, 0.3, 0.6, 0.95), range(20)):
        active = rng.random(n) < share
        active[int(rng.integers(n))] = True
        moved = elsewhere(active, rng)
        assert not (moved & active).any()
        assert moved.sum() == min(active.sum(), n - active.sum())
    run = np.isin(np.arange(20), [4, 5, 6])
    shapes = {tuple(np.flatnonzero(np.roll(elsewhere(run, rng), 0))) for _ in range(100)}
    assert len(shapes) > 10
    assert all(len(shape) == 3 and (np.diff([*shape, shape[0] + 20]) == 1).sum() >= 1 for shape in shapes)


def test_the_rubric_is_the_mean_of_the_grades() -> None:
    (scores, *_) = RubricScorer(Scripted(knows)).score(RECORDS, OWN)
    assert scores is not None
    assert scores.values["grade"] == 3.0
    assert len(scores.trials) == 25
    assert all(trial.truth is None for trial in scores.trials)
    (scores, *_) = RubricScorer(Scripted(knows)).score(RECORDS, OTHERS)
    assert scores is not None
    assert scores.values["grade"] == 0.0
    some = {"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4}
    (scores, *_) = RubricScorer(Scripted(knows, lambda r: some)).score(RECORDS, OWN)
    assert scores is not None
    assert scores.values["expected_grade"] == pytest.approx(2.0)


def test_answers_that_can_t_be_used_are_counted_and_in_no_score() -> None:
    asked: list[int] = []

    def judge(request: Request) -> str | Answer | None:
        asked.append(0)
        number = len(asked) % 5
        if number == 0:
            return None
        return Answer(None, "http 500") if number == 1 else "perhaps" if number == 2 else knows(request)

    (scores,) = DetectionScorer(Scripted(judge)).score(RECORDS[:1], OWN[:1])
    assert scores is not None
    assert len(scores.trials) == 50
    assert scores.usable == 20
    assert scores.values["balanced_accuracy"] == 1.0
    problems = {trial.problem for trial in scores.trials if trial.said is None}
    assert problems == {"malformed", "http 500", "no choice"}
    (scores,) = DetectionScorer(Scripted(lambda request: None)).score(RECORDS[:1], OWN[:1])
    assert scores is not None
    assert np.isnan(scores.values["balanced_accuracy"])
    assert scores.usable == 0


def test_a_unit_without_an_explanation_is_asked_nothing_about() -> None:
    client = Scripted(knows)
    scores = RubricScorer(client).score(RECORDS, [None, OWN[1], None, OWN[3]])
    assert [one is None for one in scores] == [True, False, True, False]
    assert len(client.asked) == 50


def test_per_level_takes_the_first_of_each() -> None:
    detection = DetectionScorer(Scripted(knows), per_level=2).questions(RECORDS[0])
    assert [question.level for question in detection] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, *[SILENT] * 10]


def test_yes_and_no_counted_by_hand() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(2, 12))
        truth, said, chance = rng.random(n) < 0.5, rng.random(n) < 0.5, np.round(rng.random(n), 1)
        trials = [Trial(0, bool(t), float(s), float(c), None, "") for t, s, c in zip(truth, said, chance, strict=True)]
        values = yes_no_values([*trials, Trial(0, True, None, None, "empty", "")])
        if truth.all() or not truth.any():
            assert all(np.isnan(value) for value in values.values())
            continue
        tp, fp, fn = (truth & said).sum(), (~truth & said).sum(), (truth & ~said).sum()
        tn = (~truth & ~said).sum()
        assert values["balanced_accuracy"] == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2)
        assert values["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        pairs = [(a > b) + (a == b) / 2 for a in chance[truth] for b in chance[~truth]]
        assert values["auc"] == pytest.approx(np.mean(pairs))
