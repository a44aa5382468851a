"""The trie says what a search of every pattern at every token says."""

import numpy as np

from sae_lightning.studies.autointerp.explainers.patterns import WILD, Pattern, Trie, described, merged


def pattern(*ids: int, activation: float = 1.0, count: int = 1) -> Pattern:
    return Pattern(ids, tuple("" if i == WILD else f" w{i}" for i in ids), activation, count)


def naive(patterns: list[Pattern], ids: np.ndarray, begin: np.ndarray) -> list[float]:
    """Of every token: all patterns tried, the most specific taken."""
    out = []
    for end in range(len(ids)):
        best = ((-1, -1), 0.0)
        for one in patterns:
            first = end + 1 - len(one.token_ids)
            if first < begin[end]:
                continue
            there = ids[first : end + 1].tolist()
            if all(a in (WILD, b) for a, b in zip(one.token_ids, there, strict=True)):
                best = max(best, ((one.literals, len(one.token_ids)), one.activation), key=lambda pair: pair[0])
        out.append(best[1])
    return out


def test_predictions_are_those_of_the_naive_search() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        patterns = {}
        for number in range(int(rng.integers(1, 12))):
            ids = tuple(rng.integers(WILD, 5, int(rng.integers(1, 5))).tolist())
            # Of equally specific patterns either may speak: they say the same here.
            patterns[ids] = pattern(*ids, activation=1.0 + sum(i != WILD for i in ids) + 10 * len(ids) + 0 * number)
        text = np.sort(rng.integers(0, 4, 80))
        ids = rng.integers(0, 5, 80)
        begin = np.array([int(np.flatnonzero(text == t)[0]) for t in text])
        told = Trie(patterns.values()).predict(ids, begin)
        assert told.tolist() == naive(list(patterns.values()), ids, begin)


def test_no_pattern_reaches_into_the_text_before() -> None:
    trie = Trie([pattern(1, 2)])
    assert trie.predict(np.array([1, 2, 1, 2])).tolist() == [0, 1, 0, 1]
    assert trie.predict(np.array([1, 2, 1, 2]), np.array([0, 0, 0, 3])).tolist() == [0, 1, 0, 0]
    assert trie.predict(np.zeros(0, np.int64)).tolist() == []


def test_equal_patterns_are_one_with_the_mean_of_their_activations() -> None:
    found = merged([pattern(3, activation=9.0), pattern(1, 2, activation=1.0), pattern(1, 2, activation=2.0)])
    assert [(one.token_ids, one.activation, one.count) for one in found] == [((1, 2), 1.5, 2), ((3,), 9.0, 1)]


def test_patterns_are_written_so_that_they_are_read() -> None:
    def said(*pieces: str) -> str:
        return str(Pattern(tuple(WILD if p == "" else i for i, p in enumerate(pieces)), pieces, 1.0))

    assert said(" New", " York") == "New [York]"
    assert said(" Cam", "den") == "Cam[den]"
    assert said(" the", "", " of", "") == "the · of [·]"
    assert said("\n", "\n\n") == "↵[↵↵]"
    assert said(" ") == "[␣]"
    many = [pattern(i, count=9 - i) for i in range(5)]
    assert described(many, 2) == "[w0] x9; [w1] x8; and 3 more"
    assert described([pattern(7)]) == "[w7]"


def test_the_json_has_everything_that_a_prediction_needs() -> None:
    one = pattern(4, WILD, 2, activation=1.5, count=3)
    (said,) = Trie([one]).to_json()
    again = Pattern(tuple(said["token_ids"]), tuple(said["pieces"]), said["activation"], said["count"])
    assert again == one
