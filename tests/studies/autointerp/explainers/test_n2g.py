"""N2G finds the patterns that are there, and only those."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.studies.autointerp.explainers.n2g import N2G
from sae_lightning.studies.autointerp.explainers.patterns import WILD
from tests.studies.autointerp.explainers.planted_unit import VOCABULARY, Planted, natural, planted, record, texts

POOL = range(VOCABULARY)


def test_precision_and_recall_on_planted_patterns_are_above_095() -> None:
    """Of 100 units with random patterns, on text that nobody has seen: pooled, and in the mean."""
    both = claims = fires = 0
    means = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        unit = planted(rng)
        seen, fresh = texts(rng, unit), natural(unit, texts(rng, unit))
        n2g = N2G(
            lambda _, unit=unit: unit, POOL, lambda _, fresh=fresh: fresh, stretches=32, draws=100, show_progress=False
        )
        found = n2g.find(record(unit, seen, unit(seen)))
        told = found.trie.predict(fresh.token_ids, fresh.begin) > 0
        real = fresh.values > 0
        both, claims, fires = both + (told & real).sum(), claims + told.sum(), fires + real.sum()
        means.append((found.scores["precision"].value, found.scores["recall"].value))
        assert found.beyond == 0
    assert both / claims > 0.95
    assert both / fires > 0.95
    assert np.mean(means, axis=0).min() > 0.95


def test_one_pattern_is_found_to_the_letter() -> None:
    unit = Planted(((7, WILD, 3, WILD),), (2.0,))
    rng = np.random.default_rng(0)
    many = texts(rng, unit, 40)
    n2g = N2G(lambda _: unit, POOL, show_progress=False)
    (explained,) = n2g.explain([record(unit, many, unit(many))])
    assert explained is not None
    assert explained.text == "w7 · w3 [·] x16"
    assert explained.by == "n2g"
    (pattern,) = next(iter(n2g.found.values())).trie.patterns
    assert pattern.token_ids == (7, WILD, 3, WILD)
    assert pattern.activation == pytest.approx(2.0)
    assert not explained.scores


def test_noise_in_the_activations_changes_nothing_and_firings_without_a_cause_are_counted() -> None:
    """The corpus' activations differ by 20 % from those read alone, and one firing in ten has a cause out of sight."""
    both = claims = fires = beyond = 0
    for seed in range(30):
        rng = np.random.default_rng(1000 + seed)
        unit = planted(rng)
        seen, fresh = texts(rng, unit), natural(unit, texts(rng, unit))
        values = [v * rng.uniform(0.8, 1.2, len(v)).astype(np.float32) for v in unit(seen)]
        n_firings = sum(int((v > 0).sum()) for v in values)
        for _ in range(n_firings // 10):
            values[int(rng.integers(len(values)))][int(rng.integers(60))] = 2.0
        found = N2G(lambda _, unit=unit: unit, POOL, stretches=32, show_progress=False).find(record(unit, seen, values))
        told = found.trie.predict(fresh.token_ids, fresh.begin) > 0
        real = fresh.values > 0
        both, claims, fires = both + (told & real).sum(), claims + told.sum(), fires + real.sum()
        beyond += found.beyond
    assert both / claims > 0.95
    assert both / fires > 0.95
    assert beyond > 0


def test_wildcards_hold_together_or_not_at_all() -> None:
    """Either of two tokens is enough: each alone may be anything, both may not."""

    def fires(ids: NDArray[np.int64], i: int) -> bool:
        return ids[i] == 9 and bool({4, 5} & set(ids[:i].tolist()))

    def either(many: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        return [np.array([fires(ids, i) for i in range(len(ids))], np.float32) for ids in many]

    seen = [np.array([1, 4, 5, 9])] * 3
    found = N2G(lambda _: either, POOL, show_progress=False).find(record(Planted(((9,),), (1.0,)), seen, either(seen)))
    (pattern,) = found.trie.patterns
    assert pattern.token_ids == (5, 9)


def test_a_unit_that_nothing_shown_explains_has_no_explanation() -> None:
    unit = Planted(((5, 6),), (1.0,))
    seen = [np.array([5, 6, 7])]
    n2g = N2G(lambda _: lambda many: [np.zeros(len(ids), np.float32) for ids in many], POOL, show_progress=False)
    assert n2g.explain([record(unit, seen, unit(seen))]) == [None]
    (found,) = n2g.found.values()
    assert (found.stretches, found.beyond) == (1, 1)
    assert found.to_json()["patterns"] == []


def test_the_same_seed_gives_the_same_patterns() -> None:
    rng = np.random.default_rng(5)
    unit = planted(rng)
    many = texts(rng, unit, 60)
    one, other = (N2G(lambda _: unit, POOL, seed=3, show_progress=False) for _ in range(2))
    assert one.explain([record(unit, many, unit(many))]) == other.explain([record(unit, many, unit(many))])
    assert one.others.tolist() == other.others.tolist()


@pytest.mark.parametrize(("name", "value"), [("keep", 0.0), ("important", 1.5), ("stretches", 0), ("replacements", 0)])
def test_a_setting_out_of_range_is_said_in_one_line(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"explainer.{name}={value}: must be"):
        N2G(lambda _: lambda many: [], POOL, **{name: value})  # type: ignore[arg-type]


def test_a_unit_that_is_not_the_same_when_read_again_breaks_nothing() -> None:
    """At a threshold, a language model's rounding decides: another batch, another answer."""
    rng = np.random.default_rng(0)

    def wavering(many: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        return [np.where((ids == 7) & (rng.random(len(ids)) < 0.5), 1.0, 0.0).astype(np.float32) for ids in many]

    unit = Planted(((7,),), (1.0,))
    seen = texts(np.random.default_rng(1), unit, 40)
    found = N2G(lambda _: wavering, POOL, show_progress=False).find(record(unit, seen, unit(seen)))
    assert found.trie.patterns
    assert all(7 in pattern.token_ids for pattern in found.trie.patterns)
