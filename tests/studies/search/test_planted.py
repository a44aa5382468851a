"""Planted features are found: by the prompts they have in common, and by what is more active than usual."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.studies import Subject
from sae_lightning.studies.search.base_rate import BaseRate, base_rate, of_longest
from sae_lightning.studies.search.combination import CombinationSearch
from sae_lightning.studies.search.prompt import PromptSearch
from tests.studies.search.ground import DENSE, LETTERS, counts, kind_ground, letter_ground, rows_of, word


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return letter_ground(tmp_path_factory.mktemp("letters"))


def test_the_planted_feature_comes_first_in_95_of_100_trials(subject: Subject) -> None:
    """Positive prompts share one letter, negative ones lack it; all others come and go by chance."""
    rng = np.random.default_rng(1)
    first = 0
    for _ in range(100):
        number = int(rng.integers(len(LETTERS)))
        letter = LETTERS[number]
        # From the second place on: the mask leaves out the first.
        positive = [word(rng, 1) + word(rng, 8, holding=letter) for _ in range(5)]
        negative = [word(rng, 9, without=letter) for _ in range(5)]
        rows = rows_of(CombinationSearch(positive, negative, show_progress=False).run(subject))
        first += rows[0][0] == number
    assert first >= 95


def test_always_active_features_do_not_win(subject: Subject) -> None:
    dense = range(len(LETTERS), len(LETTERS) + DENSE)
    store = subject.store
    assert store is not None
    assert (store.stats.count[list(dense)] > 0.3 * store.n_kept).all()
    for number in range(0, len(LETTERS), 5):
        result = PromptSearch("xx" + LETTERS[number], show_progress=False).run(subject)
        score = {row[0]: row[1] for row in rows_of(result)}
        active = [score[feature] for feature in dense if feature in score]
        assert active
        assert max(active) <= score[number]  # as much only where the letter is a dense feature's strongest
        assert np.median(active) < score[number] / 2


def naive_tail(subject: Subject, feature: int, a: float) -> float:
    assert subject.store is not None
    _, values = subject.store.column(feature)
    return (1 + counts(values, a)) / (1 + subject.store.n_kept) if a else 1.0


@pytest.mark.parametrize("token", ["last", "max", "mean"])
def test_scores_are_the_equations(subject: Subject, token: str) -> None:
    text = "banaNa trEEz"
    assert subject.reader is not None
    read = subject.reader.over(text)
    result = PromptSearch(text, token, n=1000, show_progress=False).run(subject)  # type: ignore[arg-type]
    values = read.values[read.kept]
    expected = {}
    for column, feature in enumerate(read.features.tolist()):
        own = values[:, column]
        tails = [naive_tail(subject, feature, float(a)) for a in own]
        if token == "last":
            score = -np.log(tails[-1])
        elif token == "max":
            score = -np.log(1 - (1 - min(tails)) ** len(own))
        else:
            score = -np.mean(np.log(tails))
        if token != "last" or own[-1] != 0:
            expected[feature] = score
    rows = rows_of(result)
    assert {row[0]: row[1] for row in rows} == pytest.approx(expected, abs=1e-9)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    for feature, _, activation, of_largest, density, _ in rows:
        largest = np.abs(subject.store.column(feature)[1]).max()  # type: ignore[union-attr]
        assert of_largest == pytest.approx(abs(activation) / largest)
        assert density == pytest.approx(len(subject.store.column(feature)[1]) / subject.store.n_kept)  # type: ignore[union-attr]


def test_a_combination_is_counted_prompt_by_prompt(subject: Subject) -> None:
    positive, negative = ["thqSeS", "naQqm", "oqqnT"], ["QSTSeam", "QTTSnot"]
    study = CombinationSearch(positive, negative, n=1000, show_progress=False)
    assert subject.reader is not None

    def strongest(text: str) -> tuple[dict[int, float], int]:
        read = subject.reader.over(text)  # type: ignore[union-attr]
        top = np.abs(read.values[read.kept]).max(0)
        return {int(f): float(a) for f, a in zip(read.features, top, strict=True) if a}, int(read.kept.sum())

    on, off = [strongest(text) for text in positive], [strongest(text) for text in negative]
    everywhere = [f for f in range(subject.sae.d_sae) if all(f in found for found, _ in on)]
    strict = [f for f in everywhere if not any(f in found for found, _ in off)]
    rows = rows_of(study.run(subject))
    assert strict
    assert sorted(row[0] for row in rows) == strict
    for feature, score, hits, misses, *_ in rows:
        tails = [1 - (1 - naive_tail(subject, feature, found[feature])) ** n for found, n in on]
        assert score == pytest.approx(-np.log(np.mean(tails)))
        assert (hits, misses) == (3, 0)


def test_without_any_the_nearest_are_shown_and_said_so(subject: Subject) -> None:
    result = CombinationSearch(["xxab", "xxcd"], ["xxef"], n=5, show_progress=False).run(subject)
    assert any("come nearest" in note for note in result.notes) or rows_of(result)[0][2] == 2
    letters = [LETTERS.index(letter) for letter in "abcd"]
    far = CombinationSearch(["xxa", "xxb", "xxc"], ["xxa" + "d"], n=500, show_progress=False).run(subject)
    for feature, _, hits, misses, _, _ in rows_of(far):
        if feature in letters:
            assert (hits, misses) == {0: (1, 1), 1: (1, 0), 2: (1, 0)}[letters.index(feature)]


def test_the_nearest_are_the_first_of_all(subject: Subject) -> None:
    """How many are shown has no say in which come first, though not all are scored."""

    def nearest(n: int) -> list[tuple]:
        study = CombinationSearch(["xxab", "xxcd", "xxae"], ["x" + LETTERS], n=n, show_progress=False)
        result = study.run(subject)
        assert any("come nearest" in note for note in result.notes)
        return rows_of(result)

    whole = nearest(500)
    assert len(whole) > 9
    for n in (1, 3, 9):
        assert nearest(n) == whole[:n]


def test_activations_below_0_are_as_strong_as_those_above() -> None:
    column = np.array([-3.0, 2.0, -1.0], np.float32)
    base = BaseRate(9, np.array([3]), np.array([3.0]), lambda feature: column)
    for asked in (np.array([-2.0, 2.0, -5.0, 0.0]), np.array([-2.0, 2.0, -5.0, 0.0] * 3)):
        assert base.tail(0, asked)[:4].tolist() == [0.3, 0.3, 0.1, 1.0]
    assert base.share(0, -1.5) == 0.5


def test_a_threshold_is_a_share_of_the_largest(subject: Subject) -> None:
    rows = rows_of(CombinationSearch(["xxab"], threshold=1.0, n=500, show_progress=False).run(subject))
    assert {LETTERS.index("a"), LETTERS.index("b")} <= {row[0] for row in rows}
    assert all(row[4] >= 1.0 for row in rows)
    free = rows_of(CombinationSearch(["xxab"], n=500, show_progress=False).run(subject))
    assert len(free) > len(rows)


def test_mistakes_are_one_line(subject: Subject) -> None:
    with pytest.raises(UserError, match="in all and in none"):
        CombinationSearch(["a"], ["a"])
    with pytest.raises(UserError, match="at least one prompt"):
        CombinationSearch([])
    with pytest.raises(UserError, match="between 0 and 1"):
        CombinationSearch(["a"], threshold=float("nan"))
    with pytest.raises(UserError, match="has no tokens"):
        PromptSearch("").run(subject)
    with pytest.raises(UserError, match="last, max or mean"):
        PromptSearch("a", "first")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="give a reader"):
        PromptSearch("a").run(replace(subject, reader=None))
    with pytest.raises(UserError, match="give store="):
        PromptSearch("abc").run(replace(subject, store=None))


@pytest.mark.parametrize("of", ["letters", "sae", "crosscoder"])
def test_long_prompts_are_read_in_several_windows_and_many_beside_each_other(subject: Subject, of: str) -> None:
    from sae_lightning.studies.search.prompts import read_prompts

    reader = (subject if of == "letters" else kind_ground(of)).reader  # a letter's feature knows of no window
    assert reader is not None
    rng = np.random.default_rng(3)
    texts = [word(rng, length) for length in (2, 100, 31, 32, 7)]
    assert reader.windows(np.arange(100)).tokens.shape == (4, 32)  # as long as the corpus', their start included
    for text, read in zip(texts, read_prompts(reader, texts, show=False), strict=True):
        alone = reader.over(text)
        assert "".join(read.pieces) == text
        assert np.array_equal(read.kept, alone.kept)
        dense = read.features.dense().numpy()[:, alone.features]
        np.testing.assert_allclose(dense, alone.values[alone.kept], rtol=1e-4, atol=1e-5)
        assert int(read.features.l0().sum()) == int((alone.values != 0).sum())


def test_base_rates_of_windows_are_those_of_a_store_of_them(tmp_path: Path) -> None:
    from sae_lightning.activations import Harvester
    from sae_lightning.tokens import ListSource, Windows, byte_tokenizer, write_tokens
    from tests.store.planted import planted_store

    subject = letter_ground(tmp_path / "letters")
    reader, texts = subject.reader, [word(np.random.default_rng(i), 30) for i in range(12)]
    assert reader is not None
    tokens = write_tokens(ListSource(texts), byte_tokenizer(), tmp_path / "t.bin", vocab_size=257)
    windows = Windows(tokens, "all", context_length=16, separator_id=256)
    harvester = Harvester(reader.lm, reader.sites, windows, reader.mask, 4)
    numbers = range(len(windows))
    read = base_rate(Subject(subject.sae, reader.lm, harvester, numbers), show=False)
    features = reader.encode(harvester.rows(list(numbers)).x).dense().numpy()
    assert read.n == len(features)
    assert np.array_equal(read.count, (features != 0).sum(0))
    np.testing.assert_allclose(read.largest, np.abs(features).max(0), rtol=1e-6)
    stored = planted_store(tmp_path, texts=texts, d_sae=subject.sae.d_sae, masked=0.0).store
    of_store = base_rate(Subject(subject.sae, store=stored), show=False)
    rng = np.random.default_rng(0)
    for base, column in (
        (read, lambda i: features[:, i]),
        (of_store, lambda i: stored.column(i)[1]),
    ):
        for feature in (0, 1, 53, 70):
            for asked in (rng.random(3), rng.random(20) * 2, np.zeros(2)):
                values = np.append(asked, base.largest[feature] if asked.any() else 0.0)
                expected = [(1 + counts(column(feature), a)) / (1 + base.n) if a else 1.0 for a in values]
                assert base.tail(feature, values) == pytest.approx(expected)
    tails = np.array([1.0, 0.3, 1e-9])
    assert of_longest(tails, 7) == pytest.approx(1 - (1 - tails) ** 7, rel=1e-6)
