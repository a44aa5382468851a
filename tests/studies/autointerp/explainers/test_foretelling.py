"""Precision, recall, F1 and correlation as a count by hand has them; intervals that cover."""

import numpy as np
import pytest

from sae_lightning.studies.autointerp.explainers.foretelling import foretold
from sae_lightning.studies.autointerp.explainers.natural import Natural


def made_up(seed: int, texts: int = 40) -> tuple[Natural, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = texts * 25
    real = np.where(rng.random(n) < 0.2, rng.random(n), 0).astype(np.float32)
    told = np.where(rng.random(n) < 0.7, real, np.where(rng.random(n) < 0.1, 1.0, 0.0))
    kept = rng.random(n) < 0.9
    return Natural(rng.integers(0, 9, n), np.repeat(np.arange(texts), 25), kept, real), told


def test_scores_are_those_of_a_count_by_hand() -> None:
    natural, told = made_up(0)
    tp = fp = fn = 0
    pairs = []
    for real, said, kept in zip(natural.values, told, natural.kept, strict=True):
        if kept:
            tp, fp, fn = tp + (real > 0 and said > 0), fp + (real == 0 and said > 0), fn + (real > 0 and said == 0)
            pairs.append((float(real), float(said)))
    found = foretold(natural, told, draws=200)
    assert found["precision"].value == pytest.approx(tp / (tp + fp))
    assert found["recall"].value == pytest.approx(tp / (tp + fn))
    assert found["f1"].value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["correlation"].value == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1])
    for one in found.values():
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high  # type: ignore[operator]
        assert one.tokens == natural.kept.sum()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Precision of made-up data is 0.14 / (0.14 + ...) of the whole: known from a large sample."""
    truth = foretold(*made_up(10_000, texts=20_000), draws=100)
    inside = dict.fromkeys(truth, 0)
    for seed in range(100):
        for name, one in foretold(*made_up(seed, texts=30), draws=200).items():
            inside[name] += one.low <= truth[name].value <= one.high  # type: ignore[operator]
    assert min(inside.values()) >= 86, inside


def test_what_can_not_be_divided_is_no_number() -> None:
    natural, told = made_up(0)
    nothing = foretold(natural, np.zeros(len(told)), draws=100)
    assert nothing["precision"].value is None
    assert nothing["recall"].value == 0
    assert nothing["f1"].value == 0
    assert nothing["correlation"].value is None
    empty = Natural(*(np.zeros(0, kind) for kind in (np.int64, np.int64, bool, np.float32)))
    assert {one.value for one in foretold(empty, np.zeros(0), draws=100).values()} == {None}
    assert len(empty.begin) == 0


def test_each_text_begins_at_its_first_token() -> None:
    text = np.array([4, 4, 4, 2, 9, 9])
    natural = Natural(np.arange(6), text, np.ones(6, bool), np.zeros(6, np.float32))
    assert natural.begin.tolist() == [0, 0, 0, 3, 4, 4]
