"""Banks as runs: every lane ends with the bits of its solo run, whatever happens to the bank or to the other lanes."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sae_lightning import command
from sae_lightning.activations import StopRequested
from sae_lightning.build import added_to, build_run, lane_configs, save_overrides, saved_lanes
from sae_lightning.config import RunConfig, load_config, validate
from sae_lightning.core import UserError
from sae_lightning.train import train
from sae_lightning.training.callbacks import NonFiniteLoss
from sae_lightning.training.callbacks.base import LaneCallback

LANES = [
    {"sae.k": 2},
    {"sae.k": 3, "sae.d_sae": 40, "optimizer.clip": 0.1},
    {"model": "standard", "sae.l1": 3, "optimizer.lr": 5e-3, "seed": 7, "name": "l1"},
]


def base(rows_file: Path, *more: str) -> list[str]:
    return [
        "lm=none",
        "data=activations",
        f"data.path={rows_file}",
        "data.batch_size=64",
        "tokens=2560",
        "sae.d_sae=32",
        "normalise.sample_tokens=512",
        "evaluation.every_n_steps=10",
        "evaluation.tokens=200",
        "evaluation.final_tokens=200",
        "callbacks.checkpoints.every_n_steps=10",
        "callbacks.metrics_log.every_n_steps=10",
        "progress=false",
        *more,
    ]


def config(overrides: list[str], bank: list | None = None) -> RunConfig:
    return validate({**command.plain(command.compose("train", overrides)), "bank": bank})


def run_bank(rows_file: Path, folder: Path, bank: list) -> Path:
    overrides = base(rows_file)
    made = config(overrides, bank)
    return train(made, folder, lane_configs(made, overrides), overrides=overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "export" / "sae.safetensors")


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), (one.name, name)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    from tests.conftest import planted

    path = tmp_path_factory.mktemp("bank") / "rows.npy"
    np.save(path, planted(3000, d=16, n_true=32, p=0.06)[0])
    return path


@pytest.fixture(scope="module")
def solos(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each lane as a run of its own, from the command line that says the same; data.seed is the bank's."""
    folder = tmp_path_factory.mktemp("solos")
    extra = [
        ["sae.k=2"],
        ["sae.k=3", "sae.d_sae=40", "optimizer.clip=0.1"],
        ["model=standard", "sae.l1=3", "optimizer.lr=5e-3", "seed=7", "data.seed=0"],
    ]
    for name, own in zip(("k_2", "k_3-d_sae_40-clip_0p1", "l1"), extra, strict=True):
        train(config(base(rows, *own)), folder / name)
    return folder


@pytest.fixture(scope="module")
def bank(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_bank(rows, tmp_path_factory.mktemp("whole") / "bank", LANES)


def test_every_lane_of_a_bank_ends_with_the_bits_of_its_solo_run(bank: Path, solos: Path) -> None:
    lanes = sorted(p.name for p in (bank / "lanes").iterdir())
    assert lanes == ["k_2", "k_3-d_sae_40-clip_0p1", "l1"]
    for name in lanes:
        assert_same(bank / "lanes" / name, solos / name)
        ours = json.loads((bank / "lanes" / name / "metrics.json").read_text())
        assert ours["heldout"] == json.loads((solos / name / "metrics.json").read_text())["heldout"]
    assert not torch.equal(weights(bank / "lanes" / "k_2")["b_dec"], weights(bank / "lanes" / "l1")["b_dec"])


def test_a_bank_writes_records_curves_and_settings_for_each_lane(bank: Path, solos: Path) -> None:
    records = [json.loads(line) for line in (bank / "records.jsonl").read_text().splitlines()]
    assert [r["lane"] for r in records] == ["k_2", "k_3-d_sae_40-clip_0p1", "l1"]
    assert [r["architecture"] for r in records] == ["batch_topk", "batch_topk", "standard"]
    assert [r["seed"] for r in records] == [0, 0, 7]
    for record in records:
        solo = json.loads((solos / record["lane"] / "records.jsonl").read_text())
        same = ("d_sae", "k", "lr", "fvu", "l0", "dead", "tokens", "training_flops", "parameters")
        assert {key: record[key] for key in same} == {key: solo[key] for key in same}
        own = EventAccumulator(str(bank / "lanes" / record["lane"] / "tensorboard")).Reload()
        alone = EventAccumulator(str(solos / record["lane"] / "tensorboard")).Reload()
        for tag in ("loss/total", "sparsity/l0", "heldout/fvu", "throughput/lr"):
            assert [(e.step, e.value) for e in own.Scalars(tag)] == [(e.step, e.value) for e in alone.Scalars(tag)], tag
        assert "config/text_summary" in own.Tags()["tensors"]
        assert load_config(bank / "lanes" / record["lane"]).seed == record["seed"]
    whole = json.loads((bank / "metrics.json").read_text())
    assert list(whole["lanes"]) == [r["lane"] for r in records]


class StopAt(LaneCallback):
    """Ends the run after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, trainer, module, batch) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == self.step:
            raise StopRequested(f"at {self.step}")


def stopped_bank(rows: Path, folder: Path, step: int) -> Path:
    overrides = base(rows)
    made = config(overrides, LANES)
    folder.mkdir()
    save_overrides(folder, overrides)
    from sae_lightning.config import save_config

    save_config(made, folder)
    run = build_run(made, folder, lane_configs(made, overrides))
    run.trainer.callbacks.append(StopAt(step))  # type: ignore[attr-defined]
    with pytest.raises(StopRequested):
        run.trainer.fit(run.module, datamodule=run.datamodule)
    return folder


def test_a_stopped_bank_goes_on_exactly(rows: Path, bank: Path, tmp_path: Path) -> None:
    folder = stopped_bank(rows, tmp_path / "bank", 17)
    assert not (folder / "metrics.json").exists()
    train(load_config(folder), folder, resume=True)
    for name in ("k_2", "k_3-d_sae_40-clip_0p1", "l1"):
        assert_same(folder / "lanes" / name, bank / "lanes" / name)


def test_one_lane_of_a_stopped_bank_goes_on_alone(rows: Path, bank: Path, tmp_path: Path) -> None:
    folder = stopped_bank(rows, tmp_path / "bank", 23)
    for name in ("l1", "k_2"):
        lane = folder / "lanes" / name
        train(load_config(lane), lane, resume=True)
        assert_same(lane, bank / "lanes" / name)
        (record,) = [json.loads(line) for line in (lane / "records.jsonl").read_text().splitlines()]
        assert record["tokens"] == 2560
    assert not (folder / "lanes" / "k_3-d_sae_40-clip_0p1" / "metrics.json").exists()


def test_lanes_added_later_are_those_of_a_larger_bank(rows: Path, bank: Path, tmp_path: Path) -> None:
    first = run_bank(rows, tmp_path / "bank", LANES[:1])
    # seed=0 is the bank's own; data.seed comes from it.
    made, overrides = added_to({"add_to": str(first), "bank": LANES[1:], "progress": False}, [f"add_to={first}"])
    folder = first / "added-1"
    train(made, folder, lane_configs(made, overrides))
    for name in ("k_3-d_sae_40-clip_0p1", "l1"):
        assert_same(folder / "lanes" / name, bank / "lanes" / name)


def test_only_a_banks_lanes_can_be_added_and_nothing_else_changed(rows: Path, solos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no bank's run folder"):
        added_to({"add_to": str(solos / "k_2"), "bank": LANES[:1], "progress": False}, [])
    with pytest.raises(UserError, match=r"leave out tokens"):
        added_to({"add_to": str(solos / "k_2"), "bank": LANES[:1], "progress": False}, ["tokens=3"])
    with pytest.raises(UserError, match="no lane to add"):
        added_to({"add_to": str(solos / "k_2"), "bank": None, "progress": False}, [])
    with pytest.raises(UserError, match=r"add_to=.*no run folder"):
        added_to({"add_to": str(solos), "bank": LANES[:1], "progress": False}, [])


def test_a_lane_that_is_no_number_any_more_is_dropped_and_the_rest_go_on(
    rows: Path, bank: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wild = {"model": "standard", "optimizer.lr": 1e30, "optimizer.clip": None, "scheduler.warmup": 0, "name": "wild"}
    with caplog.at_level(logging.WARNING, logger="sae_lightning"):
        folder = run_bank(rows, tmp_path / "bank", [LANES[0], wild, LANES[2]])
    assert any("lane 'wild'" in m and "dropped, the other 2 lanes go on" in m for m in caplog.messages)
    for name in ("k_2", "l1"):
        assert_same(folder / "lanes" / name, bank / "lanes" / name)
    assert not (folder / "lanes" / "wild" / "export").exists()
    records = {r["lane"]: r for r in map(json.loads, (folder / "records.jsonl").read_text().splitlines())}
    assert "not finite at step" in records["wild"]["failed"]
    assert "fvu" not in records["wild"]
    assert "failed" in json.loads((folder / "lanes" / "wild" / "metrics.json").read_text())
    (folder / "lanes" / "wild" / "metrics.json").unlink()
    with pytest.raises(UserError, match="was dropped"):
        train(load_config(folder / "lanes" / "wild"), folder / "lanes" / "wild", resume=True)


def test_a_bank_of_bad_lanes_only_stops(rows: Path, tmp_path: Path) -> None:
    wild = {"optimizer.lr": 1e30, "optimizer.clip": None, "scheduler.warmup": 0, "model": "standard"}
    with pytest.raises(NonFiniteLoss, match="training stopped"):
        run_bank(rows, tmp_path / "bank", [wild, {**wild, "seed": 2}])


def test_a_queued_bank_is_composed_when_it_starts(rows: Path, tmp_path: Path) -> None:
    made = config(base(rows), LANES)
    with pytest.raises(UserError, match=r"lanes/k_2/config\.yaml is missing"):
        saved_lanes(tmp_path, made)
    save_overrides(tmp_path, base(rows))
    assert list(saved_lanes(tmp_path, made)) == ["k_2", "k_3-d_sae_40-clip_0p1", "l1"]
