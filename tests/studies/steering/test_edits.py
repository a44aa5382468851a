"""Edits of one feature: what they make of its activations, and what a strength may be."""

import logging
import math

import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.studies.steering.edits import FeatureEdit, TimesMax, add, clamp, resolve, scale, times_max
from tests.store.planted import planted_store

F = torch.tensor([0.0, 0.5, 3.0, -1.0])


def test_clamp_add_and_scale_are_what_they_say() -> None:
    assert clamp(8).applied(F).tolist() == [8, 8, 8, 8]
    assert add(-2.5).applied(F).tolist() == [-2.5, -2.0, 0.5, -3.5]
    assert scale(0).applied(F).tolist() == [0, 0, 0, 0]
    assert scale(-10).applied(F).tolist() == [0, -5, -30, 10]
    for edit in (scale(1), add(0)):
        assert torch.equal(edit.applied(F), F)
    assert clamp("2.5") == clamp(2.5)


@pytest.mark.parametrize("make", [clamp, add, scale])
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, True, None, [1], "much", "nanx", "x", "1e400", "infx"]
)
def test_strengths_that_are_no_finite_numbers_are_one_line(make, value) -> None:
    with pytest.raises(UserError) as raised:
        make(value)
    assert "strength" in str(raised.value) or "scale" in str(raised.value)


def test_factors_of_a_maximum_need_a_store_and_become_numbers_there(tmp_path, caplog) -> None:
    store = planted_store(tmp_path).store
    largest = store.stats.largest
    assert clamp("10x") == clamp(TimesMax(10.0)) == clamp(times_max(10))
    assert times_max("-2.5X") == TimesMax(-2.5)
    with caplog.at_level(logging.WARNING):
        found = resolve({0: clamp("10x"), 2: add("-2.5x"), 3: scale(4), 4: clamp(1.5)}, store)
    assert found == {
        0: clamp(10 * float(largest[0])),
        2: add(-2.5 * float(largest[2])),
        3: scale(4),
        4: clamp(1.5),
    }
    assert "beyond" not in caplog.text, "ten times the maximum is the most that is let pass"
    resolve({0: clamp(11 * float(largest[0]))}, store)
    assert "beyond 10 times its maximum" in caplog.text
    assert resolve({0: clamp(3.0)}, None) == {0: clamp(3.0)}
    with pytest.raises(UserError, match="give store="):
        resolve({0: clamp("1x")}, None)
    with pytest.raises(UserError, match="never fires"):
        resolve({1: clamp("1x")}, store)
    with pytest.raises(UserError, match="features 0 to 11"):
        resolve({12: clamp(1)}, store)
    with pytest.raises(UserError, match="without x"):
        scale("2x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="maximum on a store"):
        clamp("10x").applied(F)
    assert [str(edit) for edit in (clamp("10x"), add(-2.5), FeatureEdit("scale", 0))] == [
        "clamp 10x",
        "add -2.5",
        "scale 0",
    ]
