"""The trials of a study and the run folders that belong to them: asking, telling, and the account at the end.

Imports optuna; import it inside functions.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn, JobStatus
from optuna.trial import FrozenTrial, TrialState

from sae_lightning import command
from sae_lightning.core import UserError, write_json
from sae_lightning.launch.search_space import SearchSpace
from sae_lightning.launch.storage import REASON_KEY, fail, trial_folder, trials
from sae_lightning.studies.scaling.pareto import front, front_rows, write_front
from sae_lightning.studies.scaling.records import collect

logger = logging.getLogger(__name__)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_SHOWN = 10


def ask(study: optuna.Study, space: SearchSpace, n: int, grid: list[dict[str, Any]] | None) -> list[optuna.Trial]:
    """Return the next ``n`` trials; with a grid trial N takes its point N."""
    batch = []
    for _ in range(n):
        if grid and not trials(study, TrialState.WAITING):  # one may wait since the sweep was killed
            study.enqueue_trial(grid[len(trials(study))])
        batch.append(study.ask(fixed_distributions=space.distributions))
    return batch


def settle_leftovers(study: optuna.Study, sweep_dir: Path, objectives: Mapping[str, str]) -> int:
    """Tell or fail the trials that ran when the sweep was killed; return how many trials are finished."""
    for trial in trials(study, TrialState.RUNNING):
        logger.warning("trial %d was running when the sweep ended", trial.number)
        tell(study, trial, sweep_dir, objectives, UserError("the sweep was killed while it ran"))
    return len(trials(study, *FINISHED))


def tell(
    study: optuna.Study,
    trial: optuna.Trial | FrozenTrial,
    sweep_dir: Path,
    objectives: Mapping[str, str],
    job: JobReturn | Exception,
) -> None:
    """Tell the study how a trial went: by its run folder's metrics.json or pruned.json.

    A trial without either has failed; its folder, made where the run did not come so far, says why in failed.json.
    """
    folder = trial_folder(sweep_dir, trial.number)
    values, reason = read_values(folder, objectives)
    if values is not None:
        study.tell(trial.number, values)
        shown = ", ".join(f"{name}={value:.4g}" for name, value in zip(objectives, values, strict=True))
        logger.info("trial %d: %s", trial.number, shown)
    elif (folder / "pruned.json").is_file() and not (folder / "metrics.json").is_file():
        study.tell(trial.number, state=TrialState.PRUNED)
        logger.info("trial %d: pruned", trial.number)
    else:
        error = job._return_value if isinstance(job, JobReturn) and job.status == JobStatus.FAILED else job
        if isinstance(error, BaseException) and not (folder / "metrics.json").is_file():
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            reason = f"{kind}{' '.join(str(error).split())}"
        write_json(folder / "failed.json", {"reason": reason})
        fail(study, trial, reason)
        logger.warning("trial %d failed: %s", trial.number, reason)


def read_values(folder: Path, objectives: Mapping[str, str]) -> tuple[list[float] | None, str]:
    """Return a complete run's objectives, or None and the reason why there are none."""
    try:
        heldout = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["heldout"]
    except FileNotFoundError:
        return None, "its run ended without metrics.json"
    except (ValueError, KeyError, TypeError) as error:
        return None, f"its metrics.json cannot be read ({error})"
    values = []
    for name in objectives:
        value = heldout.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None, f"its {name} is {value}"
        values.append(float(value))
    return values, ""


def finish(study: optuna.Study, sweep_dir: Path, objectives: Mapping[str, str]) -> None:
    """Write pareto.csv and print the best trials; end with exit code 1 when all trials failed."""
    everyone = trials(study, *FINISHED)
    complete, pruned, failures = (trials(study, state) for state in FINISHED)
    counts = f"{len(everyone)} trials: {len(complete)} complete, {len(pruned)} pruned, {len(failures)} failed"
    if not complete:
        first = f"; the first: {failures[0].user_attrs.get(REASON_KEY, 'unknown')}" if failures else ""
        logger.error("sweep=optuna: no trial is complete (%s) in %s%s", counts, sweep_dir, first)
        raise SystemExit(1)
    path = sweep_dir / "pareto.csv"
    write_front(path, front_rows(collect([sweep_dir]).rows, objectives), objectives)
    best = [complete[i] for i in front([t.values for t in complete], list(objectives.values()))]
    if len(objectives) == 1:
        name, direction = next(iter(objectives.items()))
        best = sorted(complete, key=lambda t: t.values[0], reverse=direction == "maximise")[:_SHOWN]
        title = f"best by {name}"
    else:
        title = "Pareto front of " + ", ".join(f"{name} ({direction}d)" for name, direction in objectives.items())
    command.say(f"{counts}\n{title}:")
    header = ["trial", *objectives, *best[0].params]
    rows = [
        [trial_folder(sweep_dir, t.number).name, *(f"{v:.5g}" for v in t.values), *map(_short, t.params.values())]
        for t in best
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        command.say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    command.say(f"runs, study and {path.name} in {sweep_dir}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
