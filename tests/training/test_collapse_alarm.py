"""The collapse alarm: silent on a healthy run, and on a collapsed one it says why."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sae_lightning.activations import Normaliser
from sae_lightning.core import ActivationBatch
from sae_lightning.losses import L1, LossTerm, Objective, Reconstruction
from sae_lightning.sae import StandardSAE
from sae_lightning.training import Lane, OptimSettings, SAEModule
from sae_lightning.training.callbacks import CollapseAlarm
from tests.conftest import planted
from tests.training.plain import prepare

ROWS = planted(2000, d=16, n_true=32, p=0.06)[0]
NAME = "sae_lightning.training.callbacks.collapse_alarm"


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == NAME]


def run(folder: Path, terms: dict[str, LossTerm], steps: int) -> tuple[float, float]:
    callbacks: list[Any] = [CollapseAlarm(every_n_steps=20, patience=3)]
    done = prepare(
        StandardSAE(16, 32), ROWS, folder, steps=steps, lr=1e-2, batch_size=64, terms=terms, callbacks=callbacks
    ).fit()
    return done.lane.last_fvu_l0()


def test_a_run_that_collapses_is_told_so_once_with_the_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The convention of the L1 logs: lambda 1 there is 64 * 16 = 1024 in the per-token one.
    terms = {"reconstruction": Reconstruction(reduction="element_mean"), "l1": L1(1.0, "batch_sum", "plain")}
    fvu, l0 = run(tmp_path, terms, 160)
    assert fvu > 0.98
    assert l0 < 1
    (message,) = alarms(caplog)
    assert [r.levelno for r in caplog.records if r.name == NAME] == [logging.WARNING]
    for word in ("'sae' has collapsed", "lambda_eff=1024", "bias alone", "lower the sparsity coefficient", "fvu 1."):
        assert word in message, message


def test_the_same_coefficient_in_the_per_token_convention_is_healthy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fvu, l0 = run(tmp_path, {"reconstruction": Reconstruction(), "l1": L1(1.0)}, 160)
    assert fvu < 0.9
    assert l0 > 1
    assert alarms(caplog) == []


@pytest.mark.parametrize(
    ("looks", "struck"),
    [
        ([(1.0, 0.0)] * 2, 0),
        ([(1.0, 0.0)] * 3, 1),
        ([(1.0, 0.0)] * 9, 1),  # said once
        ([(1.0, 0.0), (1.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.0, 0.0)], 0),  # in a row
        ([(0.99, 1.0)] * 5, 0),  # something fires
        ([(0.97, 0.5)] * 5, 0),  # something is explained
        ([(1.0, 0.0)] * 3 + [(0.5, 5.0)] + [(1.0, 0.0)] * 3, 2),  # it recovered and fell again
    ],
)
def test_patience_counts_looks_in_a_row(looks: list[tuple[float, float]], struck: int, caplog, monkeypatch) -> None:
    sae = StandardSAE(4, 8)
    lane = Lane(sae, Objective({"reconstruction": Reconstruction(), "l1": L1(5.0)}), Normaliser("none", False, 4))
    module = SAEModule({"sae": lane}, {"sae": OptimSettings()}, 100)
    alarm = CollapseAlarm(every_n_steps=10, patience=3)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    batch = ActivationBatch(x=x, y=x, token_index=torch.arange(6))
    lane.step(batch, 0.0)
    for step in range(1, 10 * len(looks) + 1):
        assert alarm.due(step, 10 * len(looks)) == (step % 10 == 0)  # between looks nobody looks
        if step % 10 == 0:
            monkeypatch.setattr(lane, "last_fvu_l0", lambda step=step: looks[step // 10 - 1])
            alarm.after_step(SimpleNamespace(global_step=step), module, batch)  # type: ignore[arg-type]
    assert len(alarms(caplog)) == struck
