"""A study on disk: opened or made, guarded against a second controller and against another sweep's settings.

Imports optuna; import it inside functions.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sae_lightning.core import UserError
from sae_lightning.training.callbacks.pruning import PRUNER_KEY, make_pruner
from sae_lightning.training.trial_storage import open_storage

STORAGE_FILES = {"journal": "study.journal", "sqlite": "study.db"}
REASON_KEY = "reason"
_SPACE_KEY, _FIXED_KEY, _OBJECTIVES_KEY = "space", "fixed", "objectives"


def trial_folder(sweep_dir: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return sweep_dir / f"trial-{number:03d}"


@contextmanager
def only_controller(sweep_dir: Path) -> Iterator[None]:
    """Hold the sweep's folder; raise UserError when another process runs this sweep. Freed when the holder dies."""
    sweep_dir.mkdir(parents=True, exist_ok=True)
    fd = os.open(sweep_dir / ".controller.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{sweep_dir}: another process runs this sweep; wait for it, or name another: hydra.sweeper.study=..."
            ) from None
        yield
    finally:
        os.close(fd)


def open_study(
    sweep_dir: Path,
    *,
    kind: str,
    name: str,
    space: Mapping[str, str],
    fixed: list[str],
    objectives: Mapping[str, str],
    pruner: Mapping[str, Any],
) -> optuna.Study:
    """Open the study of a sweep's folder, or make it.

    Raises UserError: the folder's study has another space, other fixed settings or objectives; its storage cannot be
    read; it is of the other kind; or the folder holds trials and no study.
    """
    remedy = "give this sweep a name of its own: hydra.sweeper.study=..."
    path = sweep_dir / STORAGE_FILES[kind]
    for other, file in STORAGE_FILES.items():
        if other != kind and (sweep_dir / file).exists():
            raise UserError(
                f"hydra.sweeper.storage={kind}: {sweep_dir / file} keeps this study; use {other}, or {remedy}"
            )
    if not path.exists() and any(sweep_dir.glob("trial-*")):
        raise UserError(f"{sweep_dir}: holds trials, but their study {path.name} is gone; restore it, or {remedy}")
    storage = open_storage(path)
    names = [study.study_name for study in optuna.get_all_study_summaries(storage)]
    if names and name not in names:
        raise UserError(f"{path}: keeps study {names[0]!r}, not {name!r}; {remedy}")
    way = optuna.study.StudyDirection
    directions = [way.MINIMIZE if direction == "minimise" else way.MAXIMIZE for direction in objectives.values()]
    # An existing study keeps its own directions here; the objectives are compared below.
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    wanted = {_SPACE_KEY: dict(space), _FIXED_KEY: sorted(fixed), _OBJECTIVES_KEY: dict(objectives)}
    there = study.user_attrs
    for key, value in wanted.items():
        if key in there and there[key] != value:
            raise UserError(f"{path}: study {name!r} has {_difference(key, there[key], value)}; {remedy}")
    for key, value in wanted.items():
        if key not in there:
            study.set_user_attr(key, value)
    if there.get(PRUNER_KEY) != dict(pruner):
        study.set_user_attr(PRUNER_KEY, dict(pruner))
    study.pruner = make_pruner(dict(pruner))
    return study


def _difference(key: str, old: Any, new: Any) -> str:
    """Say in a few words in what a study differs from what the command line asks for."""
    if key == _FIXED_KEY:
        return f"other settings ({', '.join(sorted(set(old) ^ set(new)))})"
    if key == _OBJECTIVES_KEY:
        return f"the objectives {json.dumps(old)}"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)] or ["the order of its keys"]
    return f"another search space ({', '.join(names)})"


def trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the trials in these states (any: none given), by number."""
    return study.get_trials(deepcopy=False, states=states or None)


def fail(study: optuna.Study, trial: FrozenTrial | optuna.Trial, reason: str) -> None:
    """Mark a running trial as failed and keep the reason with it."""
    if isinstance(trial, FrozenTrial):
        trial = optuna.trial.Trial(study, trial._trial_id)
    trial.set_user_attr(REASON_KEY, reason)
    study.tell(trial.number, state=TrialState.FAIL)
