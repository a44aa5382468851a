"""What is recorded of features: exact text, right levels, and nothing shared by what is shown and what is scored."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.recording import Active, FeatureFirings, Recipe, StretchRecorder
from sae_lightning.studies.autointerp.records import SILENT, Record, Stretch, Unit
from tests.store.planted import Planted, made_up_texts, planted_store


def sparse(n: int) -> NDArray[np.float32]:
    """Return [n, 6]: from rare to always on, one dead, one with negative activations."""
    rng = np.random.default_rng(3)
    share = np.array([0.02, 0.05, 0.2, 1.0, 0.0, 0.1])
    values = np.round(0.1 + 9 * rng.random((n, 6)) ** 2, 2) * (rng.random((n, 6)) < share)
    values[:, 5] *= np.where(rng.random(n) < 0.5, 1, -1)
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    texts = [" ".join(made_up_texts(4, seed)) for seed in range(60)]
    return planted_store(tmp_path_factory.mktemp("recording"), texts=texts, d_sae=6, dense=sparse, masked=0.05)


def recorder(made: Planted, n_tokens: int | None = None, **settings) -> StretchRecorder:
    n = made.store.n_tokens if n_tokens is None else n_tokens
    recipe = Recipe(**{"context": 8, "held": 3, "silent": 12, **settings})
    return StretchRecorder(made.store, n, FeatureFirings(made.store, n), recipe)


def one(made: Planted, feature: int, **settings) -> Record:
    (record,) = recorder(made, **settings).records([Unit("feature", feature)])
    return record


def place(made: Planted, stretch: Stretch, feature: int) -> tuple[int, int]:
    """Return (first token, end) of a stretch: where in its text these tokens and activations are."""
    store, column = made.store, np.maximum(made.dense[:, feature], 0)
    begin, end = int(store.text_starts[stretch.text]), int(store.text_starts[stretch.text + 1])
    n = len(stretch.pieces)
    found = [
        first
        for first in range(begin, end - n + 1)
        if np.array_equal(store.token_ids[first : first + n], stretch.token_ids)
        and np.array_equal(column[first : first + n], stretch.values)
        and store.pieces(first, first + n) == list(stretch.pieces)
    ]
    assert found
    return found[0], found[0] + n


@pytest.mark.parametrize("feature", [0, 1, 2, 5])
def test_stretches_are_the_text_and_the_activations_there(made: Planted, feature: int) -> None:
    record = one(made, feature)
    column = np.maximum(made.dense[:, feature], 0)
    assert record.largest == column.max()
    assert record.density == pytest.approx(np.count_nonzero(column) / made.kept.sum())
    edges = np.linspace(0, float(column.max()), 6)
    for stretch in (*record.shown, *record.held, *record.silent):
        assert len(stretch.pieces) == len(stretch.token_ids) == len(stretch.values) <= 8
        first, last = place(made, stretch, feature)
        assert stretch.source in made.texts[int(made.store.document[stretch.text])]
        assert first >= made.store.text_starts[stretch.text]
        assert last <= made.store.text_starts[stretch.text + 1]
        if stretch.level == SILENT:
            assert not stretch.active
        else:
            peak = float(stretch.values[stretch.at])
            assert peak == stretch.values.max() > 0
            assert edges[stretch.level] < peak <= edges[stretch.level + 1]


def test_what_is_shown_is_not_scored_and_nothing_overlaps(made: Planted) -> None:
    for feature in (0, 1, 2):
        record = one(made, feature)
        shown = {stretch.text for stretch in record.shown}
        scored = {stretch.text for stretch in (*record.held, *record.silent)}
        assert shown
        assert scored
        assert not shown & scored
        every = [stretch.token_ids.tobytes() for stretch in (*record.shown, *record.held, *record.silent)]
        assert len(set(every)) == len(every)
        for kind in (record.shown[:8], record.silent):
            spans = sorted(place(made, stretch, feature) for stretch in kind)
            assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_where_texts_are_few_stretches_of_one_keep_apart(made: Planted) -> None:
    n = int(made.store.text_starts[4])
    (record,) = recorder(made, n, top=40, from_level=0).records([Unit("feature", 2)])
    assert len(record.shown) > 4 > len({stretch.text for stretch in record.shown})
    spans = sorted(place(made, stretch, 2) for stretch in record.shown)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_the_strongest_come_first_then_some_of_every_level(made: Planted) -> None:
    record = one(made, 2, top=5, from_level=1)
    peaks = [float(stretch.values.max()) for stretch in record.shown[:5]]
    assert peaks == sorted(peaks, reverse=True)
    assert [stretch.level for stretch in record.shown[5:]] == sorted(
        (stretch.level for stretch in record.shown[5:]), reverse=True
    )
    assert [stretch.level for stretch in record.held] == sorted(
        (stretch.level for stretch in record.held), reverse=True
    )
    assert {level: sum(s.level == level for s in record.held) for level in range(5)} == dict.fromkeys(range(5), 3)


def test_strongest_of_all_that_may_be_shown(made: Planted) -> None:
    """The first shown is the largest activation in any text that is not for scoring."""
    column = np.maximum(made.dense[:, 1], 0)
    record = one(made, 1)
    scored = {s.text for n in range(20) for s in one(made, 1, held=30, silent=60).held}
    texts = np.asarray(made.store.text_index)
    free = ~np.isin(texts, list(scored))
    assert float(record.shown[0].values.max()) == column[free].max()


def test_a_unit_s_record_does_not_depend_on_the_others(made: Planted) -> None:
    units = [Unit("feature", i) for i in (0, 1, 2)]
    together = list(recorder(made).records(units))
    for unit, record in zip(units, together, strict=True):
        (alone,) = recorder(made).records([unit])
        assert [s.source for s in alone.held] == [s.source for s in record.held]
        assert [s.source for s in alone.silent] == [s.source for s in record.silent]
    other = one(made, 2, seed=1)
    assert [s.source for s in other.held] != [s.source for s in together[2].held]


def test_only_the_first_tokens_are_looked_at(made: Planted) -> None:
    n = made.store.n_tokens // 2
    (record,) = recorder(made, n_tokens=n).records([Unit("feature", 2)])
    assert record.largest == made.dense[:n, 2].max()
    assert record.density == pytest.approx(np.count_nonzero(made.dense[:n, 2]) / made.kept[:n].sum())
    for stretch in (*record.shown, *record.held, *record.silent):
        assert place(made, stretch, 2)[0] < n


def test_silent_stretches_come_from_everywhere_or_from_texts_where_it_fires(made: Planted) -> None:
    record, near = one(made, 0, silent=40), one(made, 0, silent=40, near=True)
    fires = {int(text) for text in made.store.text_index[np.flatnonzero(made.dense[:, 0])]}
    assert {stretch.text for stretch in near.silent} <= fires
    assert not {stretch.text for stretch in record.silent} <= fires


def test_a_unit_that_is_always_on_has_no_silent_stretch_and_a_dead_one_is_refused(made: Planted) -> None:
    assert one(made, 3).silent == ()
    with pytest.raises(UserError, match=r"feature 4: is never active on the .* tokens looked at; raise tokens"):
        one(made, 4)


def test_negative_activations_do_not_count(made: Planted) -> None:
    tokens, values, floor = FeatureFirings(made.store, made.store.n_tokens).of(Unit("feature", 5))
    np.testing.assert_array_equal(tokens, np.flatnonzero(made.dense[:, 5] > 0))
    assert (values > 0).all()
    assert floor == 0


def test_levels_begin_at_the_floor(made: Planted) -> None:
    class Above:
        def of(self, unit: Unit) -> Active:
            tokens = np.flatnonzero(made.dense[:, 2] > 4)
            return Active(tokens, made.dense[tokens, 2], 4.0)

    (record,) = StretchRecorder(made.store, made.store.n_tokens, Above(), Recipe(context=8)).records(
        [Unit("neuron", 2, 0)]
    )
    edges = np.linspace(4.0, record.largest, 6)
    assert record.floor == 4.0
    assert {stretch.level for stretch in record.held} == set(range(5))
    for stretch in record.held:
        peak = float(stretch.values[stretch.at])
        assert edges[stretch.level] < peak <= edges[stretch.level + 1]
        assert ((stretch.values == 0) | (stretch.values > 4)).all()


@pytest.mark.parametrize("setting", ["context", "top", "levels", "held", "silent"])
def test_a_recipe_that_records_nothing_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=f"record.{setting}=0: must be at least"):
        Recipe(**{setting: 0})  # pyright: ignore[reportArgumentType] - one of the whole numbers


def test_natural_text_is_all_of_the_texts_for_scoring(made: Planted) -> None:
    unit = Unit("feature", 2)
    natural = recorder(made).scored(unit)
    (record,) = recorder(made, held=10).records([unit])
    texts = set(natural.text.tolist())
    assert {stretch.text for stretch in (*record.held, *record.silent)} <= texts
    assert not {stretch.text for stretch in record.shown} & texts
    where = np.isin(np.asarray(made.store.text_index), list(texts))
    np.testing.assert_array_equal(natural.token_ids, np.asarray(made.store.token_ids)[where])
    np.testing.assert_array_equal(natural.values, made.dense[where, 2])
    np.testing.assert_array_equal(natural.kept, made.kept[where])


def test_the_store_is_left_as_it_is(made: Planted, tmp_path: Path) -> None:
    before = made.store.path.stat().st_mtime_ns
    one(made, 1)
    assert made.store.path.stat().st_mtime_ns == before
