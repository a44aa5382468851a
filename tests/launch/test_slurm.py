"""A sweep on a real Slurm of one node: frozen source, an edit, a cancellation, requeueing, results, refusals."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sae_lightning.core import file_sha256
from tests.conftest import ROOT, Command
from tests.launch.slurm_cluster import OneNode

SWEEP = ["--multirun", "launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.poll_seconds=0.5"]
RUN = ["lm=none", "data=activations", "data.path=rows.npy", "data.batch_size=64", "sae.d_sae=32", "tokens=6400"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNode]:
    node = OneNode(tmp_path_factory.mktemp("slurm"))
    try:
        node.start()
        yield node
    finally:
        node.stop()


def until(there, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def metrics(run_dir: Path) -> Path:
    return run_dir / "metrics.json"


def record(run_dir: Path) -> dict:
    return json.loads((run_dir / "job.json").read_text())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout of this source that a test may edit: a git repository with a change and a new file."""
    folder = tmp_path / "check out"
    for name in ("sae_lightning", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    with (folder / "sae_lightning" / "train.py").open("a") as file:
        file.write("# a change\n")
    (folder / "sae_lightning" / "new_file.py").write_text("new = 1\n")
    return folder


def test_a_sweep_is_cancelled_in_part_edited_in_part_and_deaf_to_later_edits_of_the_source(
    cluster: OneNode, checkout: Path, rows_file: Path, request: pytest.FixtureRequest
) -> None:
    shutil.copy(rows_file, checkout / "rows.npy")

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # From the checkout, as a user works: what python -m finds there must not be what the jobs run.
        words = [sys.executable, "-m", f"sae_lightning.{module}", *arguments]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(words, cwd=checkout, env=env, capture_output=True, text=True, check=False)

    in_the_way = cluster.ask("sbatch", "--parsable", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 600")
    # The other tests' jobs would wait behind it.
    request.addfinalizer(lambda: cluster.ask("scancel", in_the_way))
    done = run("train", *SWEEP, *RUN, "sae.k=2,4,6,8", "hydra.launcher.array_parallelism=1", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    runs = [checkout / "s" / str(i) for i in range(4)]
    jobs = [record(run_dir)["job_id"] for run_dir in runs]
    assert all(job in done.stdout for job in jobs)
    assert len(set(jobs)) == 4

    # The source that was submitted, before the edit of the checkout that would break every run.
    source = json.loads((checkout / "s" / "source" / "source.json").read_text())
    assert len(source["git"]["sha"]) == 40
    assert "+# a change" in source["git"]["patch"]
    assert "+new = 1" in source["git"]["patch"]
    assert source["packages"]["torch"]
    for name in ("train.py", "config/run.py", "launch/recompose.py", "launch/train_job.py"):
        path = checkout / "sae_lightning" / name
        path.write_text(path.read_text() + "\nraise RuntimeError('edited after submission')\n")
    shutil.rmtree(checkout / "conf")
    # From here the queue is asked with the source in ROOT: the checkout's own is broken now.
    shutil.move(checkout / "sae_lightning", checkout / "broken")
    (checkout / "sae_lightning").mkdir()
    (checkout / "sae_lightning" / "__init__.py").write_text("raise RuntimeError('edited after submission')\n")
    queue = [sys.executable, "-P", "-m", "sae_lightning.queue"]

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([*queue, *arguments], cwd=checkout, env=env, capture_output=True, text=True, check=False)

    edited = ask("edit", jobs[2], "sae.k=16", "tokens=12800")
    assert edited.returncode == 0, edited.stderr
    assert yaml.safe_load((runs[2] / "config.yaml").read_text())["sae"]["k"] == 16
    assert record(runs[2])["edited"][0]["overrides"] == ["sae.k=16", "tokens=12800"]
    before = (runs[2] / "config.yaml").read_bytes()
    for overrides, said in (
        (["sae.k=64"], "error: sae.k=64: must be at most sae.d_sae=32"),
        (["sae.kk=1"], "error: sae.kk: unknown key"),
        (["paths.run_dir=x"], "error: paths.run_dir=x: is settled at submission"),
        (["nothing"], "error: nothing: is no override"),
    ):
        refused = ask("edit", jobs[2], *overrides)
        assert refused.returncode == 2
        assert refused.stderr.startswith(said), refused.stderr
        assert refused.stderr.count("\n") == 1
    assert (runs[2] / "config.yaml").read_bytes() == before
    assert "JobHeld" not in cluster.ask("squeue", "-r", "-h", "-o", "%i %r")  # released, refused or not

    assert ask("cancel", jobs[3]).stdout == f"cancelled {jobs[3]}\n"
    cluster.ask("scancel", in_the_way)
    until(lambda: "RUNNING" in ask("list").stdout, "a job runs")
    refused = ask("edit", jobs[0], "sae.k=3")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"error: job {jobs[0]}: is running; "
        "only a pending run that has not begun can be edited; cancel it and submit another\n"
    )
    nodes = ask("hardware").stdout.splitlines()
    assert nodes[0].split() == ["NODE", "PARTITION", "STATE", "CPUS", "MEMORY", "GIB", "GPUS", "ACCELERATORS"]
    assert nodes[1].split()[1:] == ["main", "MIXED", "1/2", "0/4", "0/2", "gpu:fake:2"]

    until(lambda: not cluster.ask("squeue", "-h"), "all jobs end", 240)
    assert [metrics(run_dir).is_file() for run_dir in runs] == [True, True, True, False], ask("show", jobs[0]).stdout
    exported = [json.loads((run_dir / "export" / "config.json").read_text()) for run_dir in runs[:3]]
    assert [config["options"]["k"] for config in exported] == [2, 4, 16]
    table = ask("list", "s").stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        [job, state] for job, state in zip(jobs, ["COMPLETED"] * 3 + ["CANCELLED"], strict=True)
    ]
    assert "200/200 fvu" in table[3]
    shown = ask("show", jobs[2]).stdout
    for text in (str(runs[2]), "sae.k=16", "k: 16", "export written", source["git"]["sha"], "JobState=COMPLETED"):
        assert text in shown
    refused = ask("cancel", jobs[3])
    assert refused.returncode == 2
    assert "nothing to cancel" in refused.stderr


def test_a_job_that_is_told_to_stop_goes_back_into_the_queue_and_ends_with_the_same_bits(
    cluster: OneNode, command: Command, tmp_path: Path, rows_file: Path
) -> None:
    arguments = [*RUN, "tokens=192000", "sae.k=4", "evaluation.every_n_steps=0"]
    assert command("train", *SWEEP, *arguments, "hydra.sweep.dir=s").returncode == 0
    run_dir = tmp_path / "s" / "0"
    job = record(run_dir)["job_id"]
    until(lambda: (run_dir / "progress.json").is_file(), "the run trains")
    cluster.ask("scancel", "--signal=USR2", job)  # what Slurm sends before the time limit
    until(lambda: "Restarts=1" in cluster.ask("scontrol", "show", "job", job), "queued again")
    assert list((run_dir / "checkpoints").glob("step-*"))
    refused = command("queue", "edit", job, "sae.k=2")
    assert refused.returncode == 2
    cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    straight = command("train", *arguments, "paths.run_dir=straight")
    assert straight.returncode == 0, straight.stderr
    until(lambda: metrics(run_dir).is_file(), "the run ends")
    log = (run_dir / "train.log").read_text()
    assert "resuming from" in log
    ends = [folder / "export" / "sae.safetensors" for folder in (run_dir, tmp_path / "straight")]
    assert file_sha256(ends[0]) == file_sha256(ends[1])


def test_waiting_returns_each_run_s_end_and_a_wrong_one_does_not_keep_the_others(
    cluster: OneNode, command: Command, tmp_path: Path, rows_file: Path
) -> None:
    wait = [
        "hydra.launcher.wait=true",
        "hydra.sweep.dir=s",
        "sae.k=4,64",
        "losses.reconstruction.coefficient.value=1,1e300",
    ]
    done = command("train", *SWEEP, *RUN, *wait)
    assert done.returncode == 2
    runs = [tmp_path / "s" / str(i) for i in range(4)]
    assert [run_dir.is_dir() for run_dir in runs] == [True, True, False, False]  # k=64 > d_sae is no job
    assert metrics(runs[0]).is_file()
    assert not metrics(runs[1]).is_file()
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "not finite" in lines[0]  # seen in the job alone
    assert "COMPLETED" in done.stdout
    assert "FAILED" in done.stdout


def test_what_slurm_refuses_is_one_line_and_leaves_no_run_folder(
    cluster: OneNode, command: Command, tmp_path: Path, rows_file: Path
) -> None:
    for option, said in (
        ("hydra.launcher.partition=none_such", "sbatch refused the jobs"),
        ("hydra.launcher.gpus=9", "sbatch refused the jobs"),
        ("hydra.launcher.gpus=-1", "hydra.launcher.gpus=-1"),
        ("hydra.launcher.timeout_min=soon", "hydra.launcher.timeout_min='soon'"),
    ):
        done = command("train", *SWEEP, *RUN, "sae.k=2,4", option, "hydra.sweep.dir=s")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
        assert not (tmp_path / "s" / "0").exists()
    done = command("queue", "edit", "99999", "sae.k=2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: 99999: no such job here")


def test_a_gpu_is_asked_for_and_shows_as_used(
    cluster: OneNode, command: Command, tmp_path: Path, rows_file: Path
) -> None:
    done = command("train", *SWEEP, *RUN, "hydra.launcher.gpus=1", "hydra.sweep.dir=s", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    until(lambda: " 1/2 " in command("queue", "hardware").stdout.splitlines()[1][30:], "a GPU is in use")
    until(lambda: metrics(tmp_path / "s" / "0").is_file(), "the run ends")
