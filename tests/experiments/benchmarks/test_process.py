"""What a process knows of itself, and what is made of one that fails."""

import sys
import time

import pytest

from experiments.benchmarks.process import (
    MeasuringFailed,
    peak_resident_mib,
    process_started,
    reason,
    resident_mib,
    run_json,
)


def test_memory_and_age_of_this_process() -> None:
    assert 10 < resident_mib() <= peak_resident_mib()
    assert process_started() < time.perf_counter()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Traceback\n  File x\nValueError: no\n", "ValueError: no"),
        ("torch.OutOfMemoryError: full\nand then some\n", "torch.OutOfMemoryError: full"),
        ("killed\n", "killed"),
        ("", "said nothing"),
        ("step.py: error: --k 0: must be at least 1\n", "step.py: error: --k 0: must be at least 1"),
    ],
)
def test_the_reason_of_a_failure_is_its_error(said: str, why: str) -> None:
    assert reason(said) == why


def test_a_command_that_fails_says_so() -> None:
    assert run_json([sys.executable, "-c", "print('x'); print('{\"a\": 1}')"], 1) == {"a": 1}
    with pytest.raises(MeasuringFailed, match="exit 1: ValueError: no"):
        run_json([sys.executable, "-c", "raise ValueError('no')"], 1)
    with pytest.raises(MeasuringFailed, match="exit 0"):
        run_json([sys.executable, "-c", "pass"], 1)
