"""What a study is told of its trials comes from their run folders alone."""

import itertools
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from optuna.trial import TrialState

from sae_lightning.launch.search_space import read_space
from sae_lightning.launch.storage import REASON_KEY, open_study, trial_folder
from sae_lightning.launch.sweep_settings import SweepSettings, make_sampler
from sae_lightning.launch.trials import ask, finish, read_values, settle_leftovers, tell
from sae_lightning.training.callbacks.nan_guard import NonFiniteLoss

OBJECTIVES = {"l0": "minimise", "fvu": "minimise"}
SPACE = read_space(OverridesParser.create().parse_overrides(["a=x,y", "b=range(0,3)"]))


def open_it(folder: Path) -> optuna.Study:
    folder.mkdir(exist_ok=True)
    pruner: dict[str, Any] = {"name": "none"}
    space = SPACE.fingerprint()
    return open_study(folder, kind="journal", name="s", space=space, fixed=[], objectives=OBJECTIVES, pruner=pruner)


def finished(folder: Path, **heldout: float | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"heldout": heldout}))


def failed_job(error: Exception) -> JobReturn:
    job = JobReturn(status=JobStatus.FAILED)
    job.return_value = error
    return job


def test_a_complete_run_gives_its_values_in_the_order_of_the_objectives(tmp_path: Path) -> None:
    finished(tmp_path, fvu=0.25, l0=8, delta_ce=None)
    assert read_values(tmp_path, OBJECTIVES) == ([8.0, 0.25], "")
    assert read_values(tmp_path, {"fvu": "minimise", "delta_ce": "minimise"}) == (None, "its delta_ce is None")
    assert read_values(tmp_path / "nowhere", OBJECTIVES)[0] is None
    (tmp_path / "metrics.json").write_text('{"heldout"')
    assert read_values(tmp_path, OBJECTIVES)[0] is None


def test_each_end_of_a_run_is_told_as_what_it_is(tmp_path: Path) -> None:
    study = open_it(tmp_path)
    done, nan, memory, silent, pruned, raced = ask(study, SPACE, 6, None)
    finished(trial_folder(tmp_path, done.number), l0=4, fvu=0.5)
    trial_folder(tmp_path, pruned.number).mkdir()
    (trial_folder(tmp_path, pruned.number) / "pruned.json").write_text("{}")
    # The folder decides: a run whose job was reported as failed after its metrics were written is complete.
    finished(trial_folder(tmp_path, raced.number), l0=2, fvu=0.75)
    jobs: dict[optuna.Trial, JobReturn | Exception] = {
        done: JobReturn(status=JobStatus.COMPLETED),
        nan: failed_job(NonFiniteLoss("the loss is not finite\nat step 3")),
        memory: failed_job(MemoryError("out of memory")),
        silent: JobReturn(status=JobStatus.COMPLETED),
        pruned: failed_job(ValueError("pruned")),
        raced: failed_job(ValueError("killed")),
    }
    for trial, job in jobs.items():
        tell(study, trial, tmp_path, OBJECTIVES, job)
    told = open_it(tmp_path).trials
    assert [t.state.name for t in told] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "PRUNED", "COMPLETE"]
    assert [t.values for t in told if t.state == TrialState.COMPLETE] == [[4, 0.5], [2, 0.75]]
    reasons = [t.user_attrs.get(REASON_KEY) for t in told if t.state == TrialState.FAIL]
    assert reasons == [
        "the loss is not finite at step 3",
        "MemoryError: out of memory",
        "its run ended without metrics.json",
    ]


def test_leftovers_of_a_killed_sweep_count_once(tmp_path: Path) -> None:
    study = open_it(tmp_path)
    ask(study, SPACE, 3, None)
    finished(trial_folder(tmp_path, 1), l0=4, fvu=0.5)
    again = open_it(tmp_path)
    assert settle_leftovers(again, tmp_path, OBJECTIVES) == 3
    assert [t.state.name for t in again.trials] == ["FAIL", "COMPLETE", "FAIL"]
    assert settle_leftovers(open_it(tmp_path), tmp_path, OBJECTIVES) == 3


def test_a_grid_is_gone_through_once_however_often_it_is_killed(tmp_path: Path) -> None:
    grid = SPACE.grid()
    for n in (1, 2, 3):
        study = open_it(tmp_path)
        settle_leftovers(study, tmp_path, OBJECTIVES)
        if n == 2:  # killed between the two steps of asking
            study.enqueue_trial(grid[1])
        for trial in ask(study, SPACE, n, grid):
            finished(trial_folder(tmp_path, trial.number), l0=1, fvu=1)
    trials = open_it(tmp_path).trials
    assert [(t.params["a"], t.params["b"]) for t in trials] == list(itertools.product(["x", "y"], range(3)))
    assert [t.number for t in trials] == list(range(6))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_sweep_that_was_stopped_asks_for_what_it_would_have_asked_for(tmp_path: Path, sampler: str) -> None:
    settings = SweepSettings.model_validate({"sampler": sampler, "population": 4, "startup": 4, "seed": 7})

    def trials(folder: Path, stops: set[int]) -> list[dict[str, Any]]:
        study = open_it(folder)
        for number in range(16):
            if number in stops:
                study = open_it(folder)
            study.sampler = make_sampler(settings, 16, number, 2)
            (trial,) = ask(study, SPACE, 1, None)
            study.tell(trial, [trial.params["b"], -trial.params["b"] - (trial.params["a"] == "x")])
        return [t.params for t in study.trials]

    expected = trials(tmp_path / "one", set())
    assert trials(tmp_path / "two", {3, 7, 8, 13}) == expected
    assert len({tuple(p.items()) for p in expected}) > 3


def test_when_all_failed_the_command_says_so_and_ends_with_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = open_it(tmp_path)
    for trial in ask(study, SPACE, 2, None):
        tell(study, trial, tmp_path, OBJECTIVES, failed_job(NonFiniteLoss("the loss is not finite")))
    with pytest.raises(SystemExit) as ended:
        finish(study, tmp_path, OBJECTIVES)
    assert ended.value.code == 1
    assert "no trial is complete" in caplog.records[-1].message
    assert "the loss is not finite" in caplog.records[-1].message
    assert not (tmp_path / "pareto.csv").exists()
