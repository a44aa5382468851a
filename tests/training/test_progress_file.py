"""progress.json: what a queue shows of a run while it goes on."""

import json
from pathlib import Path

import pytest
import torch

from sae_lightning.activations import StopRequested
from sae_lightning.sae import TopKSAE
from sae_lightning.training.callbacks import DeadFeatures, ProgressFile
from tests.conftest import planted
from tests.training.plain import prepare
from tests.training.test_bank import StopAt

ROWS = planted(600, d=16, n_true=32, p=0.06)[0]


def read(folder: Path) -> dict:
    return json.loads((folder / "progress.json").read_text())


def test_it_says_how_far_the_run_is_at_every_renewal(tmp_path: Path) -> None:
    seen: list[dict] = []

    class Look(ProgressFile):
        def _write(self, *arguments) -> None:  # type: ignore[no-untyped-def]
            super()._write(*arguments)
            seen.append(read(tmp_path))

    callbacks = [DeadFeatures(), Look(str(tmp_path), every_seconds=0.0)]
    run = prepare(TopKSAE(16, 24, k=3), ROWS, tmp_path, steps=5, lr=1e-3, batch_size=64, callbacks=callbacks).fit()
    assert [value["step"] for value in seen] == [0, 1, 2, 3, 4, 5, 5]
    assert [value["tokens"] for value in seen] == [64 * step for step in (0, 1, 2, 3, 4, 5, 5)]
    assert [value["state"] for value in seen] == ["running"] * 6 + ["trained"]
    assert all(value["total_steps"] == 5 and value["lanes"] == 1 for value in seen)
    assert "fvu" not in seen[0]  # nothing has been seen yet
    fvu, l0 = run.lane.last_fvu_l0()
    assert (seen[-1]["fvu"], seen[-1]["l0"]) == (pytest.approx(fvu, abs=1e-6), pytest.approx(l0, abs=1e-6))
    assert seen[-1]["updated"] >= seen[0]["updated"]


def test_a_stopped_run_says_so_and_a_number_that_is_none_is_null(tmp_path: Path) -> None:
    stop = StopAt(3)
    callbacks = [DeadFeatures(), ProgressFile(str(tmp_path)), stop]
    run = prepare(TopKSAE(16, 24, k=3), ROWS, tmp_path, steps=9, lr=1e-3, batch_size=64, callbacks=callbacks)
    with pytest.raises(StopRequested):
        run.fit()
    assert (read(tmp_path)["state"], read(tmp_path)["step"]) == ("stopped", 3)
    run.lane.figures.last[1] = torch.tensor(torch.nan)
    ProgressFile(str(tmp_path))._write(run.trainer, run.module, "running")
    assert read(tmp_path)["fvu"] is None
