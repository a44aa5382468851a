"""Interpretations by judges whose worth is known: what they make of features, and of explanations of others."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from sae_lightning.core import derive_seed
from sae_lightning.studies.autointerp.clients.client import Request
from sae_lightning.studies.autointerp.explainers.chat import ChatExplainer
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.interpretation import deranged, interpret
from sae_lightning.studies.autointerp.records import Record, Unit
from sae_lightning.studies.autointerp.scorers import DetectionScorer, FuzzingScorer, RubricScorer
from sae_lightning.studies.autointerp.scorers.matching import MatchingScorer
from tests.studies.autointerp.scorers.test_scorers import knows
from tests.studies.autointerp.scripted import Scripted, record, stretch

WORDS = [f"{a}{b}" for a in ("king", "queen", "rook") for b in "abcdefgh"]
RECORDS = [record(i, word, kind="neuron" if i % 3 == 0 else "feature") for i, word in enumerate(WORDS)]


def good(request: Request) -> str:
    """Explain by the marked word and judge by it."""
    if request.choices:
        return knows(request)
    found = re.search(r"<<(.*?)>>", request.messages[-1][1])
    assert found is not None
    return found[1]


def test_a_good_judge_tells_own_explanations_from_those_of_others() -> None:
    client = Scripted(good, lambda request: {choice: float(choice == good(request)) for choice in request.choices})
    found = interpret(
        RECORDS, ChatExplainer(client), [DetectionScorer(client), FuzzingScorer(client), RubricScorer(client)]
    )
    values = found.result.values
    assert values["explained/features"] == values["explained/neurons"] == 1.0
    for scorer in ("detection", "fuzzing"):
        for value in ("balanced_accuracy", "f1", "auc"):
            assert values[f"{scorer}_{value}/features"] == values[f"{scorer}_{value}/neurons"] == 1.0
        assert values[f"{scorer}_balanced_accuracy/features_shuffled"] == 0.5
        assert values[f"{scorer}_auc/neurons_shuffled"] == 0.5
        assert values[f"{scorer}_balanced_accuracy/features-shuffled"] == 0.5
        assert values[f"{scorer}_balanced_accuracy/features-neurons"] == 0.0
        assert values[f"{scorer}_usable/features"] == 1.0
    assert values["rubric_grade/features"] == values["rubric_expected_grade/features"] == 3.0
    assert values["rubric_grade/features_shuffled"] == 0.0
    assert found.result.estimates["rubric_grade/features"].tokens == 16
    for unit in found.units:
        assert unit.explanation is not None
        assert unit.explanation.text == WORDS[unit.unit.index]
        assert unit.stranger != unit.unit
        assert unit.stranger is not None
        assert unit.stranger.kind == unit.unit.kind
    rows = [
        dict(zip(found.result.tables["levels"].columns, row, strict=True)) for row in found.result.tables["levels"].rows
    ]
    silent = [row for row in rows if row["level"] == -1]
    assert {row["scorer"] for row in silent} == {"detection"}
    assert all(row["mean"] == 0.0 for row in silent)
    own = [row for row in rows if row["scorer"] == "rubric" and row["group"] == "features" and row["measure"] == "said"]
    assert [row["level"] for row in own] == [0, 1, 2, 3, 4]
    assert all(row["mean"] == 3.0 and row["units"] == 16 for row in own)


def test_a_judge_that_tosses_a_coin_is_at_chance_within_the_interval() -> None:
    def coin(request: Request) -> str:
        rng = np.random.default_rng(derive_seed(5, str(request.messages)))
        return str(rng.choice(request.choices)) if request.choices else "words"

    client = Scripted(coin)
    found = interpret(RECORDS, ChatExplainer(client), [DetectionScorer(client), FuzzingScorer(client)])
    for scorer in ("detection", "fuzzing"):
        for group in ("features", "neurons", "features_shuffled"):
            one = found.result.estimates[f"{scorer}_balanced_accuracy/{group}"]
            assert one.low is not None
            assert one.high is not None
            assert one.low < 0.5 < one.high
            assert one.high - one.low < 0.3
        apart = found.result.estimates[f"{scorer}_balanced_accuracy/features-neurons"]
        assert apart.low is not None
        assert apart.high is not None
        assert apart.low < 0 < apart.high


def test_a_judge_that_chooses_well_is_at_chance_for_explanations_of_others() -> None:
    def chances(request: Request) -> dict[str, float]:
        found = re.search(r"\nText: (.*)\n", request.messages[-1][1])
        assert found is not None
        fit = [choice for choice in request.choices if choice in found[1].split()] or request.choices
        return {choice: (choice in fit) / len(fit) for choice in request.choices}

    client = Scripted(lambda request: max(chances(request), key=chances(request).__getitem__), chances)
    explainer = ChatExplainer(Scripted(good))
    values = interpret(RECORDS[:9], explainer, [MatchingScorer(client, strangers=7)]).result.values
    assert values["matching_auc/features"] == values["matching_auc/neurons"] == 1.0
    assert values["matching_auc/features_shuffled"] == values["matching_auc/neurons_shuffled"] == 0.5


def test_an_explainer_is_shown_marks_where_a_unit_is_strong() -> None:
    client = Scripted(lambda request: "words")
    shown = (stretch("a weak middle strong b", {"weak": 0.29, "middle": 0.31, "strong": 1.0}),)
    told = Record(Unit("feature", 1), 1.0, 0.1, shown, (), ())
    ChatExplainer(client).explain([told])
    ChatExplainer(client, marked=0.1).explain([told])
    texts = [request.messages[-1][1].splitlines()[0] for request in client.asked]
    assert texts == ["Text 1: a weak <<middle strong>> b", "Text 1: a <<weak middle strong>> b"]


def test_units_without_an_explanation_are_counted_and_scored_nowhere() -> None:
    def shy(request: Request) -> str | None:
        return None if not request.choices and "a>>" in request.messages[-1][1] else good(request)

    client = Scripted(shy)
    found = interpret(RECORDS, ChatExplainer(client), [RubricScorer(client)])
    gone = [unit for unit in found.units if unit.explanation is None]
    assert {WORDS[unit.unit.index][-1] for unit in gone} == {"a"}
    assert all(unit.stranger is None and unit.scores["rubric"] is unit.shuffled["rubric"] is None for unit in gone)
    n = sum(unit.unit.kind == "feature" for unit in found.units)
    missing = sum(unit.unit.kind == "feature" for unit in gone)
    assert missing
    assert found.result.values["explained/features"] == pytest.approx(1 - missing / n)
    assert found.result.estimates["rubric_grade/features"].tokens == n - missing
    low, high = (getattr(found.result.estimates["explained/features"], end) for end in ("low", "high"))
    assert 0 < low < 1 - missing / n < high < 1


def test_an_explainer_s_own_scores_stand_under_its_name() -> None:
    class Patterns:
        name = "patterns"

        def explain(self, records: Sequence[Record]) -> list[Explanation | None]:
            return [Explanation(f"{one.unit}", self.name, {"precision": 0.1 * one.unit.index}) for one in records]

    found = interpret(RECORDS, Patterns(), [])
    features = [0.1 * one.unit.index for one in RECORDS if one.unit.kind == "feature"]
    assert found.result.values["patterns_precision/features"] == pytest.approx(np.mean(features))
    assert "patterns_precision/features_shuffled" not in found.result.values
    assert found.result.tables == {}


def test_the_same_seed_gives_the_same_figures() -> None:
    runs = [
        interpret(RECORDS, ChatExplainer(Scripted(good)), [DetectionScorer(Scripted(good))], seed=seed)
        for seed in (1, 1, 2)
    ]
    assert runs[0].result.to_json() == runs[1].result.to_json()
    assert [u.stranger for u in runs[0].units] != [u.stranger for u in runs[2].units]


def test_nobody_keeps_his_own_and_all_are_dealt_out() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        units = [
            None if rng.random() < 0.2 else Unit("feature", i) if rng.random() < 0.5 else Unit("neuron", i, 0)
            for i in range(int(rng.integers(1, 12)))
        ]
        dealt = deranged(units, seed)
        for kind in ("feature", "neuron"):
            mine = [i for i, unit in enumerate(units) if unit is not None and unit.kind == kind]
            got = [dealt[i] for i in mine]
            if len(mine) == 1:
                assert got == [None]
            else:
                assert sorted(got) == mine  # type: ignore[type-var]
                assert all(a != b for a, b in zip(mine, got, strict=True))
        assert all(dealt[i] is None for i, unit in enumerate(units) if unit is None)
