"""Pruning reports what Evaluation measured and stops when Optuna's median rule says so."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from sae_lightning.core import UserError
from sae_lightning.training.callbacks.evaluation import Evaluation
from sae_lightning.training.callbacks.pruning import PRUNER_KEY, Pruned, Pruning
from sae_lightning.training.trial_storage import open_storage

CURVES = [[0.9, 0.5, 0.4], [0.8, 0.6, 0.2], [0.7, 0.7, 0.3]]
STEPS = (10, 20, 30)


def a_study(path: Path, **pruner: Any) -> optuna.Study:
    study = optuna.create_study(storage=open_storage(path), study_name="s")
    study.set_user_attr(PRUNER_KEY, {"name": "median", "startup": 3, "warmup": 0} | pruner)
    for curve in CURVES:
        trial = study.ask()
        for step, value in zip(STEPS, curve, strict=True):
            trial.report(value, step)
        study.tell(trial, curve[-1])
    return study


def run(folder: Path, trial: dict[str, Any], curve: list[float]) -> int | None:
    """Return the step at which a run with these evaluations is pruned."""
    evaluation = Evaluation(lambda lane: {}, every_n_steps=10)
    pruning = Pruning(str(folder), trial)
    trainer: Any = SimpleNamespace(global_step=0, callbacks=[evaluation, pruning])
    module: Any = SimpleNamespace(total_steps=STEPS[-1])
    pruning.on_train_start(trainer, module)
    for trainer.global_step in range(1, STEPS[-1] + 1):
        if trainer.global_step in STEPS:
            evaluation.evaluated_at = trainer.global_step
            evaluation.fvu = {"sae": curve[STEPS.index(trainer.global_step)]}
        try:
            pruning.after_step(trainer, module, torch.zeros(0))  # pyright: ignore[reportArgumentType]
        except Pruned:
            return trainer.global_step
    return None


@pytest.mark.parametrize("name", ["study.journal", "study.db"])
@pytest.mark.parametrize("curve", [[0.81, 0.1, 0.1], [0.79, 0.65, 0.1], [0.1, 0.1, 0.9], [0.79, 0.59, 0.9]])
def test_a_run_is_pruned_where_its_best_so_far_is_worse_than_the_median(
    tmp_path: Path, name: str, curve: list[float]
) -> None:
    study = a_study(tmp_path / name)
    number = study.ask().number
    expected = None
    for i, step in enumerate(STEPS[:-1]):  # at its last step a run is done anyhow
        if min(curve[: i + 1]) > statistics.median(c[i] for c in CURVES):
            expected = step
            break
    trial = {"storage": str(tmp_path / name), "study": "s", "number": number}
    assert run(tmp_path, trial, curve) == expected
    reported = study.trials[number].intermediate_values
    assert reported == dict(zip([s for s in STEPS if expected is None or s <= expected], curve, strict=False))
    if expected is not None:
        pruned = json.loads((tmp_path / "pruned.json").read_text())
        assert pruned == {"step": expected, "fvu": curve[STEPS.index(expected)]}


@pytest.mark.parametrize(
    ("settings", "expected"), [({"name": "none"}, None), ({"warmup": 15}, 20), ({"startup": 4}, None)]
)
def test_the_study_says_how_runs_are_judged(tmp_path: Path, settings: dict[str, Any], expected: int | None) -> None:
    path = tmp_path / "study.journal"
    number = a_study(path, **settings).ask().number
    assert run(tmp_path, {"storage": str(path), "study": "s", "number": number}, [2.0, 2.0, 2.0]) == expected


@pytest.mark.parametrize("change", [{"storage": "nowhere.journal"}, {"study": "t"}, {"number": 99}])
def test_a_trial_that_is_not_there_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "study.journal"
    a_study(path)
    with pytest.raises(UserError, match="leave trial out"):
        run(tmp_path, {"storage": str(path), "study": "s", "number": 0} | change, [1.0, 1.0, 1.0])


def test_a_value_that_is_no_number_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = a_study(path)
    number = study.ask().number
    assert run(tmp_path, {"storage": str(path), "study": "s", "number": number}, [float("nan")] * 3) is None
    assert study.trials[number].state == TrialState.RUNNING
    assert study.trials[number].intermediate_values == {}
