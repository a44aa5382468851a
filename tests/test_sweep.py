"""``python -m sae_lightning.sweep`` as a user runs it."""

import os
from pathlib import Path

import pytest

from sae_lightning.studies.scaling import collect, front_rows, write_front
from sae_lightning.studies.scaling.pareto import save_objectives
from tests.conftest import Command
from tests.studies.scaling.planted_runs import joint_runs, record, write_run


def test_real_runs_are_read(command: Command, rows_file: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "runs"
    for d_sae in (32, 64):
        done = command(
            "train", "lm=none", "data=activations", f"data.path={rows_file}", "tokens=4096", "data.batch_size=256",
            f"sae.d_sae={d_sae}", "sae.k=4", f"paths.run_dir={sweep / str(d_sae)}", "progress=false",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = command("sweep", str(sweep), "--draws", "100")
    assert done.returncode == 0, done.stderr
    assert "2 trained SAEs, 0 without a result; 0 scaling laws fitted" in done.stdout
    page = (sweep / "sweep.html").read_text()
    assert "too few points: 2, at least 4 are needed" in page
    assert "no run measured delta_ce" in page
    assert (sweep / "sweep.csv").read_text().splitlines()[0].startswith("run_dir,lane,architecture,d_sae,k,fvu,")


def test_the_front_of_a_sweeps_own_objectives_is_recomputed_byte_for_byte(command: Command, tmp_path: Path) -> None:
    sweep, out = tmp_path / "sweep", tmp_path / "out"
    for i, one in enumerate(joint_runs(0)):
        write_run(sweep / f"trial-{i:03d}", one | {"delta_ce": 0.1 + (i * 7 % 36) / 30}, config={"seed": i})
    objectives = {"delta_ce": "minimise", "explained_variance": "maximise"}
    save_objectives(sweep, objectives)
    write_front(tmp_path / "own.csv", front_rows(collect([sweep]).rows, objectives), objectives)
    done = command("sweep", str(sweep), "--out", str(out), "--draws", "100")
    assert done.returncode == 0, done.stderr
    assert (out / "pareto.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
    assert not (sweep / "sweep.html").exists()
    done = command("sweep", str(sweep), "--out", str(out), "--draws", "100", "--objectives", "l0,cosine:maximise")
    assert done.returncode == 0, done.stderr
    assert (out / "pareto.csv").read_text().startswith("run_dir,lane,l0,cosine\ntrial-000,sae,4.0,0.9\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: RUNS_DIR"),
        (["nowhere"], "nowhere: no such folder; give a folder with runs in it"),
        (["empty"], "no finished run has a records.jsonl in it; give a folder of finished runs"),
        (["runs", "--objectives", "l0,nothing"], "objective nothing: no run has a number of that name; there are"),
        (["runs", "--objectives", "l0:down"], "must be minimise or maximise"),
        (["runs", "--objectives", "l0,,fvu"], "a name is missing"),
        (["runs", "--draws", "5"], "--draws 5: an interval needs at least 100"),
        (["runs", "--draws", "many"], "invalid int value: 'many'"),
        (["runs", "--seed", "-1"], "--seed -1: must not be negative"),
        (["runs", "--bogus"], "unrecognized arguments: --bogus"),
        (["runs", "--out", "runs/records.jsonl"], "records.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "runs", record())
    done = command("sweep", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len([line for line in done.stderr.splitlines() if line]) == 1
    assert done.stdout == ""


def test_help_is_quick_to_import(command: Command) -> None:
    done = command("sweep", "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "RUNS_DIR" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "matplotlib", "scipy"}
    assert os.environ.get("PYTHONPROFILEIMPORTTIME") is None
