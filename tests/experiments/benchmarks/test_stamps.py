"""Steps are timed where the source hands out batches, however the trainer asks for them."""

from types import SimpleNamespace

import pytest

from experiments.benchmarks.stamps import StampedSource, fit_until_measured


class Counting:
    """A source of numbers."""

    def __init__(self) -> None:
        self.given = 0

    def next(self) -> int:
        self.given += 1
        return self.given

    def close(self) -> None: ...


def fake_run(source: Counting, n: int) -> SimpleNamespace:
    def fit(*_: object, **__: object) -> None:
        for _number in range(n):
            source.next()

    return SimpleNamespace(
        trainer=SimpleNamespace(fit=fit), module=None, datamodule=None, data=SimpleNamespace(source=source)
    )


def test_stamps_are_one_more_than_steps_and_the_last_batch_is_not_read() -> None:
    source = Counting()
    stamped = StampedSource(source, 5)
    fit_until_measured(fake_run(source, 100), stamped)  # pyright: ignore[reportArgumentType] - a run that only reads
    assert source.given == 5
    assert len(stamped.seconds()) == 5
    assert all(seconds >= 0 for seconds in stamped.seconds())


def test_a_run_that_ends_early_is_no_measurement() -> None:
    source = Counting()
    with pytest.raises(RuntimeError, match="after 3 batches of 5"):
        fit_until_measured(fake_run(source, 3), StampedSource(source, 5))  # pyright: ignore[reportArgumentType] - as above
