"""Stretches of optimiser steps: where they end makes no difference to anything but the time a run takes."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sae_lightning import command
from sae_lightning.activations import StopRequested
from sae_lightning.build import Run, build_run
from sae_lightning.config import save_config, validate
from sae_lightning.core import ActivationBatch
from sae_lightning.sae import TopKSAE
from sae_lightning.training import SAEModule
from sae_lightning.training.callbacks import Checkpoints
from sae_lightning.training.callbacks.base import LaneCallback
from sae_lightning.training.stretch import Agenda, Stretch
from tests.conftest import planted
from tests.training.plain import prepare
from tests.training.test_bank import StopAt
from tests.training.test_exact_resume import leaves

ROWS = planted(600, d=16, n_true=32, p=0.06)[0]
SECONDS = [0.0, 0.004, math.inf]  # a step, some steps by the clock, as many as callbacks let pass


class Every(LaneCallback):
    """Notes the steps at which it acts."""

    def __init__(self, n: int) -> None:
        self.every_n_steps = n
        self.steps: list[int] = []

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        assert len(batch) == 64
        assert int(module.each_lane()[0][1].steps_done) == trainer.global_step
        self.steps.append(trainer.global_step)


class Foreign(L.Callback):
    """Knows nothing of stretches."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self.steps.append(trainer.global_step)


def steps_of(folder: Path, seconds: float, *callbacks: L.Callback, steps: int = 20) -> tuple[Any, int]:
    """Train; return the run and the number of Trainer steps it took."""
    run = prepare(TopKSAE(16, 24, k=3), ROWS, folder, steps=steps, lr=1e-2, batch_size=64, callbacks=[*callbacks])
    run.module.agenda.seconds = seconds
    run.fit()
    return run, run.trainer.fit_loop.epoch_loop.batch_progress.total.completed


@pytest.mark.parametrize("seconds", SECONDS)
def test_each_callback_acts_at_its_own_steps(seconds: float, tmp_path: Path) -> None:
    fours, sevens, never = Every(4), Every(7), Every(0)
    run, trainer_steps = steps_of(tmp_path, seconds, fours, sevens, never)
    assert fours.steps == [4, 8, 12, 16, 20]
    assert sevens.steps == [7, 14, 20]
    assert never.steps == []
    assert run.trainer.global_step == 20
    assert int(run.lane.steps_done) == 20
    assert trainer_steps == {0.0: 20, math.inf: 1}.get(seconds, trainer_steps)
    assert 1 <= trainer_steps <= 20


def test_a_callback_that_knows_nothing_of_stretches_sees_every_step(tmp_path: Path) -> None:
    foreign, fives = Foreign(), Every(5)
    _, trainer_steps = steps_of(tmp_path, math.inf, foreign, fives)
    assert trainer_steps == 20
    assert foreign.steps == list(range(1, 21))
    assert fives.steps == [5, 10, 15, 20]


def test_a_trainer_without_a_limit_ends_with_the_steps_of_the_module(tmp_path: Path) -> None:
    run = prepare(TopKSAE(16, 24, k=3), ROWS, tmp_path, steps=9, lr=1e-2, batch_size=64)
    trainer = L.Trainer(
        max_steps=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(run.module, datamodule=run.datamodule)
    assert trainer.global_step == int(run.lane.steps_done) == 9


def test_a_trainer_that_ends_earlier_is_not_overrun(tmp_path: Path) -> None:
    run = prepare(TopKSAE(16, 24, k=3), ROWS, tmp_path, steps=9, lr=1e-2, batch_size=64)
    run.trainer.fit_loop.epoch_loop.max_steps = 4
    run.fit()
    assert run.trainer.global_step == int(run.lane.steps_done) == 4


def agenda(*callbacks: Any, seconds: float = math.inf) -> Agenda:
    made = Agenda(100, seconds)
    made.consult(callbacks)
    made.begin()
    return made


def test_a_stretch_is_over_at_the_end_and_when_it_is_stopped() -> None:
    alone = agenda()
    assert [step for step in range(1, 103) if alone.over(step)] == [100, 101, 102]
    alone.stop()
    assert alone.over(3)
    alone.begin()
    assert not alone.over(3)


def test_a_stretch_ends_where_a_callback_is_due_that_acts_between_stretches(tmp_path: Path) -> None:
    saving = Checkpoints(every_n_steps=7, run_dir=str(tmp_path))
    made = agenda(Every(2), saving)
    assert [step for step in range(1, 101) if made.over(step)] == [*range(7, 100, 7), 100]
    assert agenda(seconds=0.0).over(1)


def test_who_is_due_or_late_acts_in_the_order_of_the_callbacks() -> None:
    late, twos, threes, slow = Every(0), Every(2), Every(3), Every(5)
    late.every_seconds, slow.every_seconds = 0.0, 1e6
    made = agenda(twos, late, threes, slow)
    expected = {1: [late], 2: [twos, late], 3: [late, threes], 5: [late, slow], 6: [twos, late, threes]}
    assert {step: made.actors(step) for step in expected} == expected
    assert agenda(threes, twos).actors(6) == [threes, twos]


def test_a_source_that_runs_dry_is_no_endless_loop() -> None:
    with pytest.raises(AssertionError, match="ran dry"):
        Stretch(iter(())).pull()


# Whole runs


def built(rows_file: Path, folder: Path, seconds: float, *more: str) -> Run:
    overrides = [
        "lm=none", "data=activations", f"data.path={rows_file}", "data.batch_size=64", "model=batch_topk",
        "sae.d_sae=32", "sae.k=3", "tokens=3008", "normalise.sample_tokens=512", "evaluation.tokens=200",
        "evaluation.final_tokens=200", "evaluation.every_n_steps=9", "callbacks.checkpoints.every_n_steps=11",
        "callbacks.metrics_log.every_n_steps=6", "callbacks.density.every_n_steps=8", "trainer.accelerator=cpu",
        "callbacks.weight_norms.every_n_steps=10", "callbacks.dead_features.after_tokens=256", "progress=false", *more,
    ]  # fmt: skip
    config = validate(command.plain(command.compose("train", overrides)))
    save_config(config, folder)
    run = build_run(config, folder)
    run.module.agenda.seconds = seconds
    return run


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return all scalars but those that time decides."""
    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = set(read.Tags()["scalars"]) - {"throughput/tokens_per_s"}
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_runs_are_the_same_bits_however_long_their_stretches(precision: str, rows_file: Path, tmp_path: Path) -> None:
    found = []
    for number, seconds in enumerate(SECONDS):
        folder = tmp_path / str(number)
        run = built(rows_file, folder, seconds, f"trainer.precision={precision}")
        run.trainer.fit(run.module, datamodule=run.datamodule)
        saved = {p.name: torch.load(p, weights_only=True) for p in sorted((folder / "checkpoints").glob("step-*.ckpt"))}
        for checkpoint in saved.values():
            del checkpoint["loops"]  # how many Trainer steps it took
            checkpoint["callbacks"].pop("ScalingLog")  # seconds
        found.append((events(folder), leaves(saved)))
    (scalars, state), *others = found
    assert {step for step, _ in scalars["loss/total"]} == {6, 12, 18, 24, 30, 36, 42, 47}
    assert len(state) > 100
    for other_scalars, other_state in others:
        assert other_scalars == scalars
        assert other_state.keys() == state.keys()
        different = [k for k, v in state.items() if not same(v, other_state[k])]
        assert different == []


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("step", [1, 5, 12])
def test_a_run_stopped_at_any_step_goes_on_as_if_nothing_had_been(step: int, rows_file: Path, tmp_path: Path) -> None:
    whole = built(rows_file, tmp_path / "whole", math.inf)
    whole.trainer.fit(whole.module, datamodule=whole.datamodule)
    cut = built(rows_file, tmp_path / "cut", math.inf)
    cut.trainer.callbacks.append(StopAt(step))  # type: ignore[attr-defined]
    with pytest.raises(StopRequested):
        cut.trainer.fit(cut.module, datamodule=cut.datamodule)
    going_on = built(rows_file, tmp_path / "cut", 0.0)
    path = tmp_path / "cut" / "checkpoints" / f"step-{step:09d}.ckpt"
    going_on.trainer.fit(going_on.module, datamodule=going_on.datamodule, ckpt_path=path, weights_only=True)
    assert going_on.trainer.global_step == 47
    first, second = (leaves([r.module.state_dict(), r.module.adam().state_dict()]) for r in (whole, going_on))
    assert first.keys() == second.keys()
    assert [k for k in first if not same(first[k], second[k])] == []


def test_products_are_autocast_and_the_optimiser_is_not(rows_file: Path, tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    class Look(L.Callback):
        def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Any) -> None:
            seen.append((forward[-1], torch.is_autocast_enabled("cpu")))

        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            seen.append((forward[-1], torch.is_autocast_enabled("cpu")))

    forward: list[bool] = []
    run = built(rows_file, tmp_path, math.inf, "trainer.precision=bf16-mixed", "trainer.max_steps=4")
    run.trainer.callbacks.append(Look())  # type: ignore[attr-defined]
    sae = run.module.each_lane()[0][1].sae
    sae.register_forward_pre_hook(lambda *_: forward.append(torch.is_autocast_enabled("cpu")))
    run.trainer.fit(run.module, datamodule=run.datamodule)
    assert seen == [(True, False)] * 8


def test_hooks_within_a_step_are_called_in_order_at_every_step(tmp_path: Path) -> None:
    called: list[tuple[str, int]] = []
    names = ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]

    def note(name: str) -> Any:
        return lambda self, trainer, *_: called.append((name, trainer.global_step))

    hooks = type("Hooks", (L.Callback,), {name: note(name) for name in names})()
    _, trainer_steps = steps_of(tmp_path, math.inf, hooks, steps=3)
    assert called == [(name, step) for step in range(3) for name in names]
    assert trainer_steps == 1


def test_lightnings_profiler_counts_steps(tmp_path: Path) -> None:
    run = prepare(TopKSAE(16, 24, k=3), ROWS, tmp_path, steps=7, lr=1e-2, batch_size=64)
    profiler = SimpleProfiler()
    run.trainer.profiler = profiler  # type: ignore[assignment]
    run.fit()
    for part in ("forward_and_loss", "backward", "optimizer_step"):
        assert len(profiler.recorded_durations[part]) == 7
