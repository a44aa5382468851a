"""Learning rates: the automatic one and its course, by hand-worked numbers."""

import pytest
import torch

from sae_lightning.training import auto_learning_rate, learning_rate_factor
from sae_lightning.training.optim import schedule


@pytest.mark.parametrize(
    ("d_sae", "steps", "options", "expected"),
    [
        (2**14, 30_000, {}, 2e-4),
        (2**16, 30_000, {}, 1e-4),
        (2**12, 30_000, {}, 4e-4),
        (2**14, 10**6, {}, 2e-4),  # longer runs are not slowed down
        (2**14, 300, {}, 2e-3),
        (2**16, 300, {}, 1e-3),
        (2**14, 30, {}, 3e-3),  # would be 6.3e-3: capped
        (2**8, 30_000, {}, 1.6e-3),
        (2**4, 30_000, {}, 3e-3),
        (2**16, 300, {"scale_with_d_sae": False}, 2e-3),
        (2**16, 300, {"short_run_boost": False}, 1e-4),
        (2**8, 30, {"scale_with_d_sae": False, "short_run_boost": False}, 2e-4),
    ],
)
def test_automatic_rate(d_sae: int, steps: int, options: dict, expected: float) -> None:
    assert auto_learning_rate(2e-4, d_sae, steps, **options) == pytest.approx(expected, rel=1e-12)


def test_a_base_rate_above_the_cap_is_not_lowered_by_it() -> None:
    assert auto_learning_rate(1e-2, 2**14, 30_000) == 1e-2
    assert auto_learning_rate(1e-2, 2**12, 30) == 1e-2  # nor raised further
    assert auto_learning_rate(1e-2, 2**18, 30_000) == pytest.approx(2.5e-3)


def test_course_by_hand() -> None:
    course = [learning_rate_factor(step, 20, warmup=0.25, decay=0.5, final=0.0) for step in range(21)]
    assert course == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    )


def test_course_without_warmup_or_decay_is_constant_and_final_is_where_it_ends() -> None:
    assert {learning_rate_factor(s, 50, 0.0, 0.0, 0.0) for s in range(51)} == {1.0}
    course = [learning_rate_factor(s, 100, 0.0, 1.0, 0.2) for s in range(101)]
    assert course[0] == 1.0
    assert course[50] == pytest.approx(0.6)
    assert course[100] == pytest.approx(0.2)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("warmup", "decay"), [(0.05, 0.2), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_every_step_moves_and_none_by_more_than_the_rate(total: int, warmup: float, decay: float) -> None:
    course = [learning_rate_factor(s, total, warmup, decay, 0.0) for s in range(total)]
    assert all(0 < factor <= 1 for factor in course)
    assert max(course) == pytest.approx(1)


def test_the_scheduler_applies_the_course_of_each_group() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.Adam([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 2.0}])
    courses = [(0.5, 0.0, 0.0), (0.0, 0.8, 0.1)]
    scheduler = schedule(optimizer, 10, courses)
    for step in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        expected = [learning_rate_factor(step, 10, *course) for course in courses]
        assert rates == pytest.approx([0.1 * expected[0], 2.0 * expected[1]])
        optimizer.step()
        scheduler.step()
