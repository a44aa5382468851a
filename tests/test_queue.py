"""The queue command and launcher=slurm where there is no Slurm, and mistakes in their arguments. See launch/."""

import sys
from pathlib import Path

import pytest

from tests.conftest import Command


@pytest.fixture
def without_slurm(tmp_path: Path) -> dict[str, str]:
    """Return variables of a machine without Slurm's commands."""
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "squeue: there is no such command here"),
        (["show", "1"], "squeue: there is no such command here"),
        (["edit", "1", "sae.k=2"], "squeue: there is no such command here"),
        (["cancel", "1"], "squeue: there is no such command here"),
        (["hardware"], "scontrol: there is no such command here"),
        ([], "the following arguments are required: list|show|edit|cancel|hardware"),
        (["lst"], "argument list|show|edit|cancel|hardware: invalid choice: 'lst'"),
        (["edit", "1"], "the following arguments are required: key=value"),
        (["cancel"], "the following arguments are required: JOB"),
    ],
)
def test_a_mistake_is_one_line(
    command: Command, without_slurm: dict[str, str], arguments: list[str], said: str
) -> None:
    done = command("queue", *arguments, **without_slurm)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_help_is_quick_and_names_the_actions(command: Command) -> None:
    done = command("queue", "--help")
    assert done.returncode == 0
    for action in ("list", "show", "edit", "cancel", "hardware"):
        assert action in done.stdout


def test_a_sweep_without_sbatch_is_refused_before_anything_is_made(
    command: Command, without_slurm: dict[str, str], rows_file: Path, tmp_path: Path
) -> None:
    arguments = ["lm=none", "data=activations", f"data.path={rows_file}", "sae.k=2,4", "hydra.sweep.dir=s"]
    done = command("train", "--multirun", "launcher=slurm", *arguments, **without_slurm)
    assert done.returncode == 2
    assert (
        done.stderr == "error: launcher=slurm: there is no sbatch here; submit where Slurm is, or use launcher=joblib\n"
    )
    assert not (tmp_path / "s").exists()


def test_without_submitit_the_extra_is_named(
    command: Command, rows_file: Path, tmp_path: Path, without_slurm: dict[str, str]
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"#!{sys.executable}\n")
    sbatch.chmod(0o755)
    hide = tmp_path / "hide"
    hide.mkdir()
    # A finder that says, before any other, that there is no submitit.
    (hide / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'submitit' else find(name, *rest)\n"
    )
    arguments = ["lm=none", "data=activations", f"data.path={rows_file}", "sae.k=2,4"]
    done = command("train", "--multirun", "launcher=slurm", *arguments, **without_slurm, PYTHONPATH=str(hide))
    assert done.returncode == 2
    assert done.stderr == "error: launcher=slurm: needs submitit; pip install 'sae_lightning[slurm]'\n"


def test_a_search_cannot_go_on_without_the_results(command: Command, rows_file: Path) -> None:
    arguments = ["lm=none", "data=activations", f"data.path={rows_file}", "sae.k=choice(2,4)", "sweep=optuna"]
    done = command("train", "--multirun", "launcher=slurm", *arguments, "hydra.launcher.wait=false")
    assert done.returncode == 2
    assert done.stderr.startswith("error: hydra.launcher.wait=false: ")
    assert done.stderr.count("\n") == 1
