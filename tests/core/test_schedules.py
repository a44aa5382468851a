"""Coefficient schedules: their values at known places, their limits, what they refuse."""

import math

import pytest

from sae_lightning.core import Schedule, UserError
from sae_lightning.core.schedules import KINDS


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Schedule(3.0), {0.0: 3.0, 0.4: 3.0, 1.0: 3.0}),
        (Schedule(4.0, "warmup", 0.2), {0.0: 0.0, 0.05: 1.0, 0.1: 2.0, 0.2: 4.0, 0.7: 4.0, 1.0: 4.0}),
        (Schedule(4.0, "warmup", 0.0), {0.0: 4.0, 1.0: 4.0}),
        (Schedule(4.0, "warmup", 1.0), {0.5: 2.0, 1.0: 4.0}),
        (Schedule(2.0, "linear", final=10.0), {0.0: 2.0, 0.25: 4.0, 1.0: 10.0}),
        (Schedule(2.0, "cosine", final=-2.0), {0.0: 2.0, 0.25: math.sqrt(2), 0.5: 0.0, 1.0: -2.0}),
        (Schedule(5.0, "two_phase", 0.3), {0.0: 0.0, 0.29: 0.0, 0.3: 5.0, 1.0: 5.0}),
    ],
    ids=lambda value: value.kind if isinstance(value, Schedule) else "",
)
def test_values_at_known_places(schedule: Schedule, points: dict[float, float]) -> None:
    for t, value in points.items():
        assert schedule.at(t) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_outside_is_clamped(kind) -> None:
    schedule = Schedule(3.0, kind, 0.5, final=1.0)
    assert schedule.at(-2.0) == schedule.at(0.0)
    assert schedule.at(1.5) == schedule.at(1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"value": 1.0, "kind": "sometimes"}, ["sometimes", "two_phase"]),
        ({"value": 1.0, "warmup": 1.5}, ["warmup=1.5", "between 0 and 1"]),
        ({"value": 1.0, "warmup": -0.1}, ["warmup=-0.1"]),
        ({"value": math.nan}, ["nan", "finite"]),
        ({"value": 1.0, "final": math.inf}, ["final=inf", "finite"]),
    ],
)
def test_what_is_no_schedule_is_refused(arguments: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        Schedule(**arguments)
    for word in words:
        assert word in str(raised.value)
