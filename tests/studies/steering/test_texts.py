"""What is counted in texts: repetition, words of a concept, perplexity, against counting by hand."""

import math

import numpy as np
import pytest

from sae_lightning.studies.steering.concept import all_words, concept_words
from sae_lightning.studies.steering.fluency import perplexity
from sae_lightning.studies.steering.repetition import distinct, repeated


def naive_repeated(ids: list[int], n: int) -> float:
    """The share of n-grams that stood in the text before."""
    grams = [ids[i : i + n] for i in range(len(ids) - n + 1)]
    return sum(gram in grams[:i] for i, gram in enumerate(grams)) / len(grams)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_repetition_is_the_share_of_n_grams_that_were_there_before(n: int) -> None:
    rng = np.random.default_rng(0)
    for length in (3, 4, 10, 60):
        ids = rng.integers(0, 4, length).tolist()
        assert repeated(ids, n) == pytest.approx(naive_repeated(ids, n))
        assert distinct(ids) == pytest.approx(1 - naive_repeated(ids, 1))


def test_repetition_of_loops_and_of_what_is_too_short() -> None:
    assert repeated(list(range(50))) == 0.0
    assert repeated([7] * 102) == pytest.approx(0.99)
    assert repeated([1, 2]) is None
    assert repeated([1, 2], 2) == 0.0
    assert distinct([]) is None
    assert distinct([5, 5, 5, 6]) == 0.5


@pytest.mark.parametrize(
    ("text", "words", "start", "n"),
    [
        ("The river. RIVER, river's rivers upriver river_", ["river"], 0, 4),
        ("a golden gate bridge", ["Golden Gate", "gate"], 0, 1),  # the longer of two that overlap
        ("a gate of gold", ["Golden Gate", "gate"], 0, 1),
        ("Straße STRASSE", ["straße"], 0, 2),
        ("C++ and c+", ["c++"], 0, 1),
        ("a.b axb", ["a.b"], 0, 1),
        ("anything", [], 0, 0),
        ("the river the river", ["river"], len("the river"), 1),
        ("the ri" + "ver", ["river"], len("the ri"), 1),  # the prompt's last word goes on
        ("sea" + "son of", ["son", "season"], len("sea"), 1),
        ("river1 1river", ["river"], 0, 0),
    ],
)
def test_words_of_a_concept_are_whole_words(text: str, words: list[str], start: int, n: int) -> None:
    assert concept_words(text, words, start) == n


def test_words() -> None:
    assert all_words("It's 3 o'clock, Zürich!") == 6
    assert all_words(" ... ") == 0


def test_perplexity() -> None:
    nats = np.array([10 * math.log(7.0), 0.0, 3.0])
    found = perplexity(nats, np.array([10.0, 5.0, 0.0]))
    np.testing.assert_allclose(found[:2], [7.0, 1.0])
    assert not np.isfinite(found[2])
    assert np.isnan(perplexity(np.zeros(1), np.zeros(1))[0])
