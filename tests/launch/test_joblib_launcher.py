"""``launcher=joblib``: processes that share the machine, die alone, and leave nobody behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hydra.core.config_store import ConfigStore
from joblib import cpu_count

from sae_lightning.launch import register
from sae_lightning.launch.joblib_launcher import thread_variables
from tests.conftest import Command
from tests.launch.test_optuna_sweeper import SMALL


def arguments(rows_file: Path, *more: str) -> list[str]:
    return ["--multirun", "launcher=joblib", *SMALL, f"data.path={rows_file}", "hydra.sweep.dir=out", *more]


def start(tmp_path: Path, *line: str) -> subprocess.Popen[bytes]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "sae_lightning.train", *line], cwd=tmp_path, env=env, stdout=log, stderr=log
        )


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert process.poll() is None, "the sweep ended too soon"
        time.sleep(0.05)


def test_threads_are_divided_and_a_run_that_fails_leaves_the_others_alone(
    tmp_path: Path, rows_file: Path, command: Command
) -> None:
    """The threads are those that torch has in the runs; the user's own setting is lifted here and stays the most."""
    line = arguments(rows_file, "sae.k=4,64,8", "hydra.launcher.n_jobs=2")
    done = command("train", *line, OMP_NUM_THREADS="64")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: sae.k=64: must be at most sae.d_sae=32")
    for number in (0, 2):
        assert (tmp_path / "out" / str(number) / "metrics.json").is_file()
        machine = json.loads((tmp_path / "out" / str(number) / "environment.json").read_text())["machine"]
        assert machine["torch_threads"] == max(1, cpu_count() // 2)


@pytest.mark.parametrize(
    ("own", "n_workers", "threads", "expected"),
    [
        ("", 1, None, cpu_count()),
        ("", 2 * cpu_count(), None, 1),
        ("1", 1, None, 1),
        ("", 2, 3, 3),
        ("1", 2, 3, 3),
        ("many", 1, None, cpu_count()),
    ],
)
def test_share_of_the_threads(
    monkeypatch: pytest.MonkeyPatch, own: str, n_workers: int, threads: int | None, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", own)
    assert set(thread_variables(n_workers, threads).values()) == {str(expected)}


def test_a_process_that_is_killed_fails_its_own_run_only(tmp_path: Path, rows_file: Path) -> None:
    process = start(tmp_path, *arguments(rows_file, "sae.k=1,2,4", "hydra.launcher.n_jobs=1", "tokens=25600"))
    wait_for(tmp_path / "out" / "0" / "environment.json", process)
    workers = [p for p in psutil.Process(process.pid).children() if _has_open(p, tmp_path / "out" / "0" / "train.log")]
    assert len(workers) == 1
    workers[0].kill()
    assert process.wait(timeout=240) != 0
    assert "run 0: its process died (SIGKILL)" in (tmp_path / "log").read_text()
    assert [(tmp_path / "out" / n / "metrics.json").exists() for n in "012"] == [False, True, True]


def test_runs_end_with_a_sweep_that_is_killed(tmp_path: Path, rows_file: Path) -> None:
    process = start(tmp_path, *arguments(rows_file, "sae.k=1,2", "hydra.launcher.n_jobs=2", "tokens=12800000"))
    for number in "01":
        wait_for(tmp_path / "out" / number / "environment.json", process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(workers) >= 2
    deadline = time.monotonic() + 10
    while any(_lives(worker) for worker in workers):
        assert time.monotonic() < deadline, "a run went on without its sweep"
        time.sleep(0.1)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _has_open(process: psutil.Process, path: Path) -> bool:
    return str(path) in [file.path for file in process.open_files()]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: must be a whole number from 1"),
        ("hydra.launcher.threads=few", "hydra.launcher.threads=few: must be a whole number from 1"),
        ("launcher=job", "launcher=job: unknown choice; launcher is one of basic, joblib"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, rows_file: Path, command: Command, given: str, words: str) -> None:
    done = command("train", *arguments(rows_file, "sae.k=1,2", given))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr


def test_a_missing_extra_is_named(tmp_path: Path, rows_file: Path, command: Command) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['joblib'] = None\n")
    done = command("train", *arguments(rows_file, "sae.k=1,2"), PYTHONPATH=str(hidden))
    assert done.returncode == 2
    assert done.stderr == "error: launcher=joblib: needs the package joblib; pip install 'sae_lightning[joblib]'\n"


def test_the_schema_of_another_joblib_launcher_is_set_aside() -> None:
    """hydra-joblib-launcher registers one, and hydra would check our conf/hydra/launcher/joblib.yaml against it."""
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="joblib", node={"_target_": "x", "backend": "loky"})
    register()
    assert "joblib.yaml" not in store.repo["hydra"]["launcher"]
    assert "basic.yaml" in store.repo["hydra"]["launcher"]
