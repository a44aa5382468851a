"""Runs in several processes as a user starts them: how they end, with which words and exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sae_lightning.command import compose, plain
from sae_lightning.config import validate
from sae_lightning.core import UserError
from sae_lightning.launch.ranks import LOST, Place, _address, place
from sae_lightning.launch.supervisor import RanksEnded, _verdict
from tests.conftest import Command
from tests.test_bad_input import refused

SETTINGS = [
    "lm=none",
    "data=activations",
    "data.batch_size=128",
    "model=topk",
    "sae.d_sae=64",
    "sae.k=4",
    "trainer.devices=2",
    "evaluation.every_n_steps=0",
    "callbacks.checkpoints.every_n_steps=100",
    "logger=none",
    "progress=false",
]


def start(rows_file: Path, run_dir: Path, *more: str) -> subprocess.Popen[str]:
    """Start a run that would go on for minutes."""
    words = [f"data.path={rows_file}", f"paths.run_dir={run_dir}", "tokens=5e7", *SETTINGS, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "sae_lightning.train", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=run_dir.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def until_saved(run_dir: Path, process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """Wait for the first whole checkpoint; return the processes by rank."""
    for _ in range(2400):
        if any((run_dir / "checkpoints").glob("step-*.sha256")):
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    return {int(child.environ()["RANK"]): child for child in children}


def test_a_killed_rank_ends_all_with_one_line_and_the_run_can_go_on(
    rows_file: Path, tmp_path: Path, command: Command
) -> None:
    run_dir = tmp_path / "run"
    process = start(rows_file, run_dir)
    ranks = until_saved(run_dir, process)
    assert sorted(ranks) == [0, 1]
    ranks[1].kill()
    killed = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode == 128 + signal.SIGKILL
    lines = [line for line in said.splitlines() if "ERROR" in line]
    assert len(lines) == 1, said
    assert "rank 1 of 2 was killed by SIGKILL" in lines[0]
    assert f"resume={run_dir}" in lines[0]
    assert "Traceback" not in said
    assert not any(child.is_running() for child in ranks.values())

    # The rest of a shorter budget, from the checkpoint.
    config = run_dir / "config.yaml"
    step = max(int(path.stem[5:]) for path in (run_dir / "checkpoints").glob("step-*.ckpt"))
    config.write_text(config.read_text().replace("max_steps: null", f"max_steps: {step + 50}"))
    done = command("train", f"resume={run_dir}", "progress=false")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["tokens"] == 128 * (step + 50)
    assert metrics["processes"] == 2


def test_a_signal_to_the_command_saves_and_one_that_cannot_be_caught_leaves_nobody_behind(
    rows_file: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = start(rows_file, run_dir)
    until_saved(run_dir, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "stopped (SIGTERM at step" in said
    step = int(said.split("SIGTERM at step ")[1].split(")")[0])
    assert (run_dir / "checkpoints" / f"step-{step:09d}.ckpt").is_file()
    assert json.loads((run_dir / "progress.json").read_text())["state"] == "stopped"

    other = tmp_path / "other"
    process = start(rows_file, other)
    ranks = until_saved(other, process)
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(list(ranks.values()), timeout=30)
    assert not alive


def test_a_mistake_that_the_processes_find_is_one_line_and_leaves_no_folder(tmp_path: Path, command: Command) -> None:
    done = command("train", *SETTINGS, "tokens=1e4", "data.path=nowhere.npy", f"paths.run_dir={tmp_path / 'run'}")
    refused(done, "nowhere.npy")
    assert not (tmp_path / "run").exists()
    # A folder that holds something else is not ours to remove, whatever went wrong.
    precious = tmp_path / "run" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    done = command("train", *SETTINGS, "tokens=1e4", "data.path=nowhere.npy", f"paths.run_dir={precious.parent}")
    refused(done, "nowhere.npy")
    assert precious.read_text() == "mine"


def test_a_run_that_fails_in_training_keeps_what_it_wrote(rows_file: Path, tmp_path: Path, command: Command) -> None:
    run_dir = tmp_path / "run"
    own = [f"data.path={rows_file}", "tokens=2e4", "optimizer.lr=1e30", f"paths.run_dir={run_dir}"]
    refused(command("train", *SETTINGS, *own), "not finite")
    assert {"config.yaml", "train.log", "environment.json"} <= {path.name for path in run_dir.iterdir()}


def test_a_stop_outside_of_training_is_no_failure() -> None:
    for codes in ([1, LOST], [1, 0], [-2, LOST]):
        ended = _verdict(codes, {}, Path("/runs/a"), [signal.SIGINT])
        assert type(ended) is SystemExit
        assert ended.code == 130


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.strategy=fsdp"], ["trainer.strategy", "fsdp", "ddp", "model_parallel"]),
        (["trainer.devices=3"], ["data.batch_size=128", "trainer.devices=3"]),
        (["trainer.devices=3", "trainer.strategy=model_parallel"], ["sae.d_sae=64", "trainer.devices=3"]),
        (["trainer.devices=0"], ["trainer.devices"]),
        (["trainer.accelerator=mps"], ["trainer.devices=2", "mps"]),
    ],
)
def test_a_number_of_processes_or_a_strategy_that_cannot_be(
    overrides: list[str], words: list[str], rows_file: Path
) -> None:
    composed = compose("train", [*SETTINGS, f"data.path={rows_file}", "tokens=1e4", *overrides])
    with pytest.raises(UserError) as refusal:
        validate(plain(composed))
    for word in words:
        assert word in str(refusal.value)


def test_processes_that_others_started_must_be_as_many_as_the_config_says(rows_file: Path, command: Command) -> None:
    done = command("train", *SETTINGS, f"data.path={rows_file}", "tokens=1e4", RANK="0", WORLD_SIZE="4")
    refused(done, "trainer.devices=2", "4 processes")


SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Place(1, 2, 1, 2)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Place(5, 8, 1, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({**SLURM, "SLURM_STEP_ID": "0"}, Place(3, 4, 1, 2)),
        # A job's script, in which no task has been started yet.
        (SLURM, None),
        ({**SLURM, "SLURM_STEP_ID": "4294967291"}, None),
        ({**SLURM, "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
    ],
)
def test_who_is_who_is_read_from_the_environment(
    variables: dict[str, str], expected: Place | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place() == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, "10.0.0.1:29500"),
        ({"SLURM_STEP_NODELIST": "node[03-07,12],other", "SLURM_JOB_ID": "42", "SLURM_STEP_ID": "1"}, "node03:15421"),
        ({"SLURM_NODELIST": "gpu[9,11]", "MASTER_PORT": "1234"}, "gpu9:1234"),
        ({"SLURM_NODELIST": "one,two"}, "one:15000"),
    ],
)
def test_the_processes_meet_at_the_first_host(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _address() == expected


@pytest.mark.parametrize(
    ("codes", "received", "code", "words"),
    [
        ([LOST, -9], [], 137, "rank 1 of 2 was killed by SIGKILL"),
        ([LOST, 1], [], 1, "rank 1 of 2 failed: it broke"),
        ([143, 143], [15], 143, ""),
        ([130, LOST], [], 130, ""),
        ([-15, -15], [15], 143, ""),
        ([0, 1], [], 1, "rank-1.log"),
    ],
)
def test_what_ended_a_run_is_the_first_cause_and_not_what_followed(
    codes: list[int], received: list[int], code: int, words: str
) -> None:
    ended = _verdict(codes, {1: {"failure": "it broke"}}, Path("/runs/a"), received)
    assert ended.code == code
    assert isinstance(ended, RanksEnded) == bool(words)
    assert words in str(ended)
