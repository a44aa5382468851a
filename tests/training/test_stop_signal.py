"""Ctrl-C and SIGTERM: finish the step, save, leave; give the handlers back."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from sae_lightning.activations import FileSource, StopRequested
from sae_lightning.core import ActivationBatch
from sae_lightning.sae import TopKSAE
from sae_lightning.training import last_good
from sae_lightning.training.callbacks import Checkpoints, StopSignal
from tests.conftest import planted
from tests.training.plain import prepare

ROWS = planted(600, d=16, n_true=32, p=0.06)[0]


class AfterStep(L.Callback):
    """Calls a function after each step, before it is saved."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def on_train_batch_end(self, *_: Any) -> None:
        self.act()


def topk() -> TopKSAE:
    return TopKSAE(16, 24, k=3)


@pytest.fixture
def handlers():
    """Catch what a test's signals would do to pytest; check that a run gives the handlers back."""
    caught: list[int] = []

    def catch(number: int, frame: Any) -> None:
        caught.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, catch) for number in numbers}
    yield caught
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == [catch, catch]


class Interrupted(FileSource):
    """Gets a signal while it makes its fifth batch, as if it were busy with the language model."""

    number = signal.SIGTERM

    def next(self) -> ActivationBatch:
        if self._position == 4 * self.batch_size and not self._stop:
            os.kill(os.getpid(), self.number)
        return super().next()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    number: signal.Signals, tmp_path: Path, handlers: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def send() -> None:
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), number)

    callbacks = [AfterStep(send), Checkpoints(500, run_dir=str(tmp_path)), stop := StopSignal()]
    run = prepare(topk(), ROWS, tmp_path, steps=50, lr=1e-3, batch_size=64, callbacks=callbacks)
    with pytest.raises(StopRequested, match=f"{number.name} at step 3"):
        run.fit()
    assert stop.received == number
    assert number.name in caplog.text
    saved = torch.load(last_good(tmp_path), weights_only=True)
    assert saved["global_step"] == 3
    assert torch.equal(saved["state_dict"]["lanes.sae.sae.W_enc"], run.lane.sae.W_enc)
    assert handlers == []


def test_a_signal_while_the_source_works_saves_the_state_of_the_last_step(tmp_path: Path, handlers: list[int]) -> None:
    callbacks = [Checkpoints(500, run_dir=str(tmp_path)), StopSignal()]
    run = prepare(topk(), ROWS, tmp_path, steps=50, lr=1e-3, batch_size=64, callbacks=callbacks, source=Interrupted)
    with pytest.raises(StopRequested):
        run.fit()
    saved = torch.load(last_good(tmp_path), weights_only=True)
    assert saved["global_step"] == 4
    assert saved["ActivationDataModule"]["position"] == 4 * 64
    assert int(run.lane.steps_done) == 4


def test_a_second_signal_goes_to_whoever_was_there_before(tmp_path: Path, handlers: list[int]) -> None:
    def send_twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    run = prepare(
        topk(), ROWS, tmp_path, steps=9, lr=1e-3, batch_size=64, callbacks=[AfterStep(send_twice), StopSignal()]
    )
    with pytest.raises(StopRequested):
        run.fit()
    assert handlers == [signal.SIGINT]
