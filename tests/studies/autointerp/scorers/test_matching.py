"""Matching against judges whose answers are known."""

import re

import numpy as np

from sae_lightning.studies.autointerp.clients.client import Request
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.scorers.matching import MatchingScorer
from tests.studies.autointerp.scripted import Scripted, record

WORDS = ["king", "queen", "bishop", "knight", "rook", "pawn"]
RECORDS = [record(i, word) for i, word in enumerate(WORDS)]
OWN = [Explanation(word, "test") for word in WORDS]
OTHERS = [*OWN[1:], OWN[0]]


def knows(request: Request) -> str:
    """Choose the word that is in the text; where none is, the first that is offered."""
    found = re.search(r"\nText: (.*)\n", request.messages[-1][1])
    assert found is not None
    assert not re.search("<<|>>", found[1])
    return next((choice for choice in request.choices if choice in found[1].split()), request.choices[0])


def test_a_judge_that_knows_chooses_the_unit_s_own_and_never_a_shuffled_one():
    for i, scores in enumerate(MatchingScorer(Scripted(knows), strangers=3).score(RECORDS, OWN)):
        assert scores is not None
        assert len(scores.trials) == scores.usable == 50
        true = [trial for trial in scores.trials if trial.truth]
        assert all(trial.said == 1 for trial in true), WORDS[i]
        assert scores.values["balanced_accuracy"] in (0.5, 1.0)  # where the text has none, the first is chosen
        assert np.isnan(scores.values["auc"])
    for scores in MatchingScorer(Scripted(knows), strangers=5).score(RECORDS, OTHERS):
        assert scores is not None
        assert not any(trial.said for trial in scores.trials if trial.truth)


def test_of_a_shuffled_explanation_the_unit_s_own_is_no_stranger():
    client = Scripted(knows, lambda request: {one: float(one == knows(request)) for one in request.choices})
    for word, other, scores in zip(
        WORDS, OTHERS, MatchingScorer(client, strangers=5).score(RECORDS, OTHERS, OWN), strict=True
    ):
        mine = [request.choices for request in client.asked[:50]]
        del client.asked[:50]
        assert all(word not in choices and other.text in choices and len(choices) == 5 for choices in mine)
        assert scores is not None
        assert scores.values["auc"] == scores.values["balanced_accuracy"] == 0.5  # neither text says anything of it


def test_every_stretch_of_a_unit_is_offered_the_same_and_the_seed_says_what():
    def offered(seed: int) -> list[set[tuple[str, ...]]]:
        client, seen = Scripted(knows), {}
        ask = client.ask

        def watching(requests, what=""):
            for request in requests:
                assert f"Descriptions:\n{chr(10).join(request.choices)}\n\n" in request.messages[-1][1]
                assert len(set(request.choices)) == len(request.choices) == 4
            seen[0] = [request.choices for request in requests]
            return ask(requests, what)

        client.ask = watching
        MatchingScorer(client, strangers=3, seed=seed).score(RECORDS, OWN)
        return [set(seen[0][50 * i : 50 * i + 50]) for i in range(6)]

    first = offered(0)
    assert all(len(choices) == 1 for choices in first)
    assert all(word in next(iter(choices)) for word, choices in zip(WORDS, first, strict=True))
    assert offered(0) == first
    assert offered(1) != first


def test_without_another_explanation_there_is_no_score():
    scorer = MatchingScorer(Scripted(knows))
    assert scorer.score(RECORDS[:2], [OWN[0], None]) == [None, None]
    assert scorer.score(RECORDS[:2], [OWN[0], Explanation("KING ", "test")]) == [None, None]
    two = scorer.score(RECORDS[:3], [OWN[0], None, OWN[2]])
    assert [scores is None for scores in two] == [False, True, False]
