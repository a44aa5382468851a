"""Stop a run of a sweep that is worse than the others were at the same step."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import lightning as L
from annotated_types import Ge
from pydantic import BaseModel, ConfigDict

from sae_lightning.core import ActivationBatch, Ranks, UserError, write_json
from sae_lightning.training.callbacks.base import LaneCallback, find
from sae_lightning.training.callbacks.evaluation import Evaluation
from sae_lightning.training.module import SAEModule

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

# Where a study keeps how its runs are judged: runs in other processes read it there.
PRUNER_KEY = "pruner"


class Pruned(UserError):  # noqa: N818 - says what happened
    """The run was worse than the median of the others; pruned.json in its folder says at which step."""


class TrialOf(BaseModel):
    """The config key ``trial``: which trial of which study a run is. storage: the file that the study is kept in."""

    model_config = ConfigDict(extra="forbid")

    storage: str
    study: str
    number: Annotated[int, Ge(0)]


class Pruning(LaneCallback):
    """Report each evaluation's held-out fvu to the trial of the study; raise Pruned when its pruner says stop.

    Put it after Evaluation. A resumed run reports nothing twice: a step that the trial knows keeps its value. Of
    several processes the first reports, and all hear what the pruner says.

    trial: ``{storage, study, number}`` as the sweep wrote it into the run's config.
    Raises UserError: a study or trial that is not there, a bank of several lanes.
    """

    def __init__(self, run_dir: str, trial: dict[str, Any]) -> None:
        self.run_dir = Path(run_dir)
        self.where = TrialOf.model_validate(trial)
        self._trial: optuna.Trial | None = None
        self._evaluation: Evaluation | None = None
        self._reported_at = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trial = load_trial(self.where) if Ranks.present().rank == 0 else None
        self._evaluation = find(trainer, Evaluation)

    def due(self, step: int, total_steps: int) -> bool:
        return self._evaluation is not None and self._evaluation.due(step, total_steps)

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        evaluation, step = self._evaluation, trainer.global_step
        if evaluation is None or evaluation.evaluated_at != step or step == self._reported_at:
            return
        if len(evaluation.fvu) != 1:
            raise UserError("trial: a bank of several lanes cannot be pruned; use pruner=none")
        (fvu,) = evaluation.fvu.values()
        self._reported_at = step
        prune = False
        if self._trial is not None:
            # Optuna leaves a value that is no number out of its medians; such a run is NaNGuard's.
            if math.isfinite(fvu):
                self._trial.report(fvu, step)
            prune = step < module.total_steps and self._trial.should_prune()
        if Ranks.present().told(prune):
            if self._trial is not None:
                write_json(self.run_dir / "pruned.json", {"step": step, "fvu": fvu})
            raise Pruned(f"pruned at step {step}: held-out fvu {fvu:.4g} is worse than the median of the other trials")


def make_pruner(settings: dict[str, Any]) -> "optuna.pruners.BasePruner":
    """Return the pruner that a study's settings name: ``{name, startup, warmup}``."""
    import optuna

    if settings.get("name", "none") == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=settings["startup"], n_warmup_steps=settings["warmup"])


def load_trial(where: TrialOf) -> "optuna.Trial":
    """Return the running trial that a run belongs to."""
    import optuna

    from sae_lightning.training.trial_storage import open_storage

    if not Path(where.storage).is_file():
        raise UserError(f"trial.storage={where.storage}: no such file; leave trial out, it is for sweep=optuna")
    try:
        study = optuna.load_study(study_name=where.study, storage=open_storage(where.storage))
        found = next(t for t in study.get_trials(deepcopy=False) if t.number == where.number)
    except (KeyError, StopIteration):
        raise UserError(
            f"trial={where.study}/{where.number}: no such trial in {where.storage}; leave trial out"
        ) from None
    study.pruner = make_pruner(study.user_attrs.get(PRUNER_KEY, {}))
    return optuna.trial.Trial(study, found._trial_id)
