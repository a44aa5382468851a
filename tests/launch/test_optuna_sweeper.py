"""``sweep=optuna`` as a user runs it: killed and gone on with, with runs that fail, and with mistakes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from sae_lightning.studies.scaling.pareto import load_objectives
from sae_lightning.training.trial_storage import open_storage
from tests.conftest import Command

SMALL = [
    *("lm=none", "data=activations", "data.batch_size=128", "tokens=2560", "sae.d_sae=32", "sae.k=4"),
    *("logger=none", "progress=false", "normalise.sample_tokens=512"),
    *("evaluation.every_n_steps=5", "evaluation.tokens=128", "evaluation.final_tokens=256"),
]


def arguments(rows_file: Path, *more: str) -> list[str]:
    return ["--multirun", "sweep=optuna", *SMALL, f"data.path={rows_file}", *more]


def study_in(folder: Path, name: str = "study") -> optuna.Study:
    storage = "study.journal" if (folder / "study.journal").exists() else "study.db"
    return optuna.load_study(study_name=name, storage=open_storage(folder / storage))


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_a_sweep_that_is_killed_twice_ends_with_its_total_of_trials(
    tmp_path: Path, rows_file: Path, command: Command
) -> None:
    """Must show 4 of the sweeps: SIGKILL twice, 20 trials, 20 folders, and the front that ``sweep`` recomputes."""
    line = arguments(
        rows_file,
        "hydra.sweeper.sampler=nsga2",
        "hydra.sweeper.objectives=[l0,fvu]",
        "hydra.sweeper.n_trials=20",
        "sae.k=choice(1,2,4,8)",
        "optimizer.lr=tag(log, interval(1e-3,1e-1))",
    )
    folder = tmp_path / "outputs" / "sweeps" / "study"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for folders in (4, 11):
        process = subprocess.Popen(
            [sys.executable, "-m", "sae_lightning.train", *line],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(list(folder.glob("trial-*"))) < folders:
            assert process.poll() is None, "the sweep ended before it could be killed"
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert "RUNNING" in states(study_in(folder))
    done = command("train", *line)
    assert done.returncode == 0, done.stderr
    ended = states(study_in(folder))
    assert len(ended) == 20
    assert set(ended) <= {"COMPLETE", "FAIL"}
    assert ended.count("FAIL") <= 2
    runs = sorted(p.name for p in folder.glob("trial-*"))
    assert runs == [f"trial-{n:03d}" for n in range(20)]
    for run, trial in zip(runs, study_in(folder).trials, strict=True):
        if trial.state == TrialState.COMPLETE:
            config = yaml.safe_load((folder / run / "config.yaml").read_text())
            assert str(config["sae"]["k"]) == trial.params["sae.k"]
            assert config["optimizer"]["lr"] == trial.params["optimizer.lr"]
        else:
            assert "killed" in (folder / run / "failed.json").read_text()
    front = (folder / "pareto.csv").read_bytes()
    assert len(front.splitlines()) > 2
    assert load_objectives(folder) == {"l0": "minimise", "fvu": "minimise"}
    (folder / "pareto.csv").unlink()
    read = command("sweep", str(folder))
    assert read.returncode == 0, read.stderr
    assert (folder / "pareto.csv").read_bytes() == front
    # The same command once more finds nothing to do.
    again = command("train", *line)
    assert again.returncode == 0
    assert "20 trials: " in again.stdout
    assert len(study_in(folder).trials) == 20


def test_runs_that_fail_are_failed_trials_and_the_rest_go_on(tmp_path: Path, rows_file: Path, command: Command) -> None:
    line = arguments(
        rows_file,
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.storage=sqlite",
        # One diverges, one breaks a rule, one has a key that its architecture lacks.
        "optimizer.clip=null",
        "optimizer.lr=choice(0.01,1e37)",
        "model=topk,standard",
        "sae.k=4,64",
    )
    done = command("train", *line)
    assert done.returncode == 0, done.stderr
    trials = study_in(tmp_path / "outputs" / "sweeps" / "study").trials
    assert len(trials) == 8
    reasons = {tuple(t.params.values()): t.user_attrs.get("reason", "") for t in trials}
    assert [key for key, reason in reasons.items() if not reason] == [("0.01", "topk", "4")]
    assert "not finite" in reasons["1e+37", "topk", "4"]
    assert "sae.k=64: must be at most sae.d_sae=32" in reasons["0.01", "topk", "64"]
    assert "sae.k" in reasons["0.01", "standard", "4"]
    assert all("\n" not in reason for reason in reasons.values())


def test_when_no_run_can_work_the_exit_code_is_1(tmp_path: Path, rows_file: Path, command: Command) -> None:
    done = command("train", *arguments(rows_file, "hydra.sweeper.n_trials=2", "sae.k=choice(64,65)"))
    assert done.returncode == 1
    assert "no trial is complete (2 trials: 0 complete, 0 pruned, 2 failed)" in done.stderr.splitlines()[-1]
    assert "must be at most sae.d_sae=32" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_pruned_runs_stop_early_and_count(tmp_path: Path, rows_file: Path, command: Command, launcher: str) -> None:
    line = arguments(
        rows_file,
        f"launcher={launcher}",
        "hydra.sweeper.study=p",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.pruner=median",
        "hydra.sweeper.pruner_startup=2",
        "optimizer.lr=choice(0.03,0.02,1e-6,0.01)",
    )
    done = command("train", *line)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "sweeps" / "p"
    study = study_in(folder, "p")
    assert states(study)[:3] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert len(study.trials) == 4
    assert study.trials[2].last_step == 5
    assert list(study.trials[0].intermediate_values) == [5, 10, 15, 20]
    assert (folder / "trial-002" / "pruned.json").is_file()
    assert not (folder / "trial-002" / "metrics.json").exists()
    assert study.get_trials(states=[TrialState.RUNNING]) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["sae.kk=1,2"], "sae.kk: unknown key"),
        (["modell=topk,standard"], "modell: unknown"),
        (["model=topk,foo"], "model=foo: unknown choice; model is one of batch_topk"),
        (["sae.k=range(5,5)"], "sae.k=range(5,5): an empty grid"),
        (["sae.k=choice()"], "sae.k=choice()"),
        (["optimizer.lr=interval(2,1)"], "low=2 must be below high=1"),
        (["sae.k=4"], "there is nothing to search"),
        (["sae.k=1,2", "hydra.sweeper.sampler=tpu"], "hydra.sweeper.sampler='tpu'"),
        (["sae.k=1,2", "hydra.sweeper.objectives=[fuv]"], "unknown metric; did you mean 'fvu'"),
        (["sae.k=1,2", "hydra.sweeper.objectives=[delta_ce]"], "is measured with a language model"),
        (["sae.k=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0"),
        (["sae.k=1,2", "hydra.sweeper.pruner=median", "hydra.sweeper.objectives=[l0]"], "judges runs by fvu alone"),
        (["sae.k=1,2", "hydra.sweeper.study=a/b"], "names a folder"),
        (["sae.k=1,2", "paths.run_dir=x"], "paths.run_dir: is one folder"),
        (["optimizer.lr=interval(1,2)", "hydra.sweeper.sampler=grid"], "an interval has no grid"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, rows_file: Path, command: Command, given: list[str], words: str
) -> None:
    done = command("train", *arguments(rows_file, *given))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "outputs").exists()
