"""Examples of a feature against dense arrays and the source text: order, samples, repeated texts, masked tokens."""

import itertools

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.analysis.contexts import ContextsStudy, examples_of, informative
from sae_lightning.studies.firings import firings_by_text
from tests.store.planted import Planted, made_up_texts, planted_store


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return planted_store(tmp_path_factory.mktemp("contexts"), density=0.06)


def subject(planted: Planted) -> Subject:
    return Subject(StandardSAE(4, planted.store.d_sae), store=planted.store)


def text_around(planted: Planted, token: int, before: int, after: int) -> tuple[str, str, str]:
    """Return what the byte tokenizer's tokens are of a text, by its UTF-8."""
    starts = planted.store.text_starts
    text = int(np.searchsorted(starts, token, side="right")) - 1
    at, indexed = int(token - starts[text]), int(starts[text + 1] - starts[text])
    data = planted.texts[text].encode()[:indexed]
    cut = (data[max(0, at - before) : at], data[at : at + 1], data[at + 1 : at + 1 + after])
    return tuple(part.decode(errors="replace") for part in cut)  # type: ignore[return-value]


def test_top_and_lowest_are_those_of_the_dense_array(planted: Planted) -> None:
    store = planted.store
    for feature in range(store.d_sae):
        column = planted.dense[:, feature]
        active = np.flatnonzero(column)
        found = examples_of(store, feature, top=7, lowest=4, distinct=False)
        assert [e.token for e in found.top] == sorted(active, key=lambda t: (-column[t], t))[:7]
        assert [e.token for e in found.lowest] == sorted(active, key=lambda t: (column[t], t))[:4]
        for one in found:
            assert one.value == column[one.token]
            assert planted.kept[one.token]
        assert found.skipped == 0


def test_samples_lie_in_their_slices(planted: Planted) -> None:
    for feature in (0, 2, 3):
        column = planted.dense[:, feature]
        found = examples_of(planted.store, feature, bins=4, per_bin=3, seed=5).quantiles
        edges = np.linspace(0, column.max(), 5)
        for low, high in itertools.pairwise(edges):
            inside = set(np.flatnonzero((column > low) & (column <= high)))
            mine = [one for one in found if one.low == pytest.approx(low)]
            assert len(mine) == min(3, len(inside))
            assert {one.token for one in mine} <= inside
            assert all(one.high == pytest.approx(high) for one in mine)
        highs = [one.high for one in found]
        assert highs == sorted(highs, reverse=True)  # type: ignore[type-var]
        assert found == examples_of(planted.store, feature, bins=4, per_bin=3, seed=5).quantiles


def test_contexts_are_the_source(tmp_path) -> None:
    planted = planted_store(tmp_path, texts=[f"plain words number {i} and then some" for i in range(20)])
    for one in examples_of(planted.store, 0, top=30, before=6, after=3):
        context = one.context
        assert (context.before, context.token, context.after) == text_around(planted, one.token, 6, 3)
    words = examples_of(planted.store, 0, top=5, before=2, after=1, unit="words").top
    for one in words:
        whole = planted.texts[one.context.text]
        assert one.context.before + one.context.token + one.context.after in whole


def test_repeated_contexts_are_shown_once(tmp_path) -> None:
    texts = ["the very same article"] * 12 + made_up_texts(10)
    planted = planted_store(tmp_path, texts=texts, masked=0.0)
    store = planted.store
    found = examples_of(store, 0, top=10, lowest=0, bins=0, before=30, after=30)
    column = planted.dense[:, 0]
    expected, seen = [], set()
    for token in sorted(np.flatnonzero(column), key=lambda t: (-column[t], t)):
        context = store.context(int(token), 30, 30)
        text = context.before + context.token + context.after
        if text not in seen:
            expected.append(token)
            seen.add(text)
    assert [one.token for one in found.top] == expected[:10]
    assert found.skipped > 0
    assert len(examples_of(store, 0, top=10, distinct=False, before=30, after=30).top) == 10


def test_no_more_than_so_many_are_looked_at(tmp_path) -> None:
    planted = planted_store(tmp_path, texts=["abcd"] * 60, masked=0.0, dense=lambda n: np.ones((n, 2), np.float32))
    found = examples_of(planted.store, 0, top=2, lowest=1, bins=0, before=9, after=9)
    assert (len(found.top), found.top[0].token, found.skipped) == (1, 0, 31)
    assert len(found.lowest) == 1
    assert not list(examples_of(planted.store, 0, top=0, lowest=0, bins=0))


def test_informative_features_are_those_with_the_largest_information(planted: Planted) -> None:
    share = (planted.dense > 0).sum(0) / planted.kept.sum()
    information = firings_by_text(planted.store, show_progress=False).information()
    expected = sorted((i for i in range(12) if 0 < share[i] <= 0.1), key=lambda i: -information[i])
    assert len(expected) > 4
    assert informative(planted.store, 4) == expected[:4]
    assert informative(planted.store, 100, information) == expected
    assert informative(planted.store, 100, -information) == expected[::-1]


def signed(n: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return (rng.standard_normal((n, 6)) * (rng.random((n, 6)) < 0.15)).astype(np.float32)


def test_negative_activations_rank_by_size_and_keep_their_sign(tmp_path) -> None:
    texts = ["the very same article"] * 8 + made_up_texts(10)
    planted = planted_store(tmp_path, d_sae=6, dense=signed, texts=texts)
    store = planted.store
    shown = []
    for feature in range(6):
        column = planted.dense[:, feature]
        found = examples_of(store, feature, top=6, lowest=4, bins=3, per_bin=100)
        for kind, sign, n in ((found.top, -1, 6), (found.lowest, 1, 4)):
            expected, seen = [], set()
            for token in sorted(np.flatnonzero(column), key=lambda t: (sign * abs(column[t]), t)):
                context = store.context(int(token))
                text = context.before + context.token + context.after
                if text not in seen:
                    expected.append(token)
                    seen.add(text)
            assert [one.token for one in kind] == expected[:n]
        assert sorted(one.token for one in found.quantiles) == np.flatnonzero(column).tolist()
        assert all(one.low < abs(one.value) <= one.high for one in found.quantiles)  # type: ignore[operator]
        assert all(one.value == column[one.token] for one in found)
        shown += [one.value for one in found.top]
    assert min(shown) < 0 < max(shown)
    table = ContextsStudy([2], top=6, show_progress=False).run(subject(planted)).tables["examples"]
    assert [row[2] for row in table.rows[:6]] == [one.value for one in examples_of(store, 2, top=6).top]


def test_an_sae_whose_features_are_all_frequent_has_examples_and_says_so(tmp_path) -> None:
    def frequent(n: int) -> np.ndarray:
        rng = np.random.default_rng(2)
        out = (rng.random((n, 4)) < np.array([0.3, 0.5, 0.8, 0.0])).astype(np.float32)
        out[: n // 2, 1] = 0.0  # of the second half of the texts
        return out

    planted = planted_store(tmp_path / "a", d_sae=4, dense=frequent)
    information = firings_by_text(planted.store, show_progress=False).information()
    expected = sorted(range(3), key=lambda i: -information[i])
    assert informative(planted.store, 9) == expected
    assert informative(planted.store, 1) == expected[:1] == [1]
    result = ContextsStudy(show_progress=False).run(subject(planted))
    assert list(dict.fromkeys(row[0] for row in result.tables["examples"].rows)) == expected
    assert any("more than 10% of the tokens: shown all the same" in note for note in result.notes)
    silent = planted_store(tmp_path / "b", d_sae=4, dense=lambda n: np.zeros((n, 4), np.float32))
    assert ContextsStudy(show_progress=False).run(subject(silent)).notes == ("no feature is active in this store",)


def test_the_table(planted: Planted) -> None:
    study = ContextsStudy(features=[3, 1, 3], top=2, lowest=1, bins=2, per_bin=1, show_progress=False)
    assert study.reason(subject(planted)) is None
    result = study.run(subject(planted))
    table = result.tables["examples"]
    assert table.columns == ("feature", "kind", "value", "before", "token", "after", "text", "position", "title")
    assert {row[0] for row in table.rows} == {3}
    assert [row[1] for row in table.rows] == ["top", "top", "quantile", "quantile", "lowest"]
    first = examples_of(planted.store, 3, top=1).top[0]
    assert table.rows[0][2:8] == (
        first.value, first.context.before, first.context.token, first.context.after, first.context.text,
        first.context.position,
    )  # fmt: skip
    assert table.rows[0][8] == f"Text <b>{first.context.text}</b>"
    assert result.notes == ("never active in this store: features 1",)
    best = ContextsStudy(n_features=2, show_progress=False).run(subject(planted)).tables["examples"]
    assert list(dict.fromkeys(row[0] for row in best.rows)) == informative(planted.store, 2)


def test_mistakes(planted: Planted) -> None:
    with pytest.raises(UserError, match="feature 12: the SAE of this store has features 0 to 11"):
        ContextsStudy(features=[12], show_progress=False).run(subject(planted))
    with pytest.raises(UserError, match=r"features=\[\]: names no feature"):
        ContextsStudy(features=[])
    with pytest.raises(UserError, match="leaves nothing to show"):
        ContextsStudy(top=0, lowest=0, bins=0)
    assert "feature store" in (ContextsStudy().reason(Subject(StandardSAE(4, 6))) or "")
