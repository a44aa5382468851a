"""Checkpoints: the last ones, every n steps, and the best by held-out fvu."""

import logging
import math
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from annotated_types import Ge
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from sae_lightning.activations import StopRequested
from sae_lightning.training.callbacks.base import find
from sae_lightning.training.callbacks.evaluation import Evaluation
from sae_lightning.training.callbacks.nan_guard import drop_bad_lanes
from sae_lightning.training.checkpoints import checksum_path, link_or_copy, parts_of, step_checkpoints
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)


class Checkpoints(LightningCheckpoint):
    """Save ``checkpoints/step-N.ckpt`` every ``every_n_steps`` steps, at the end and when asked to stop.

    The last ``keep`` of them stay (two by default: if the newest is torn by a crash there is one before it);
    ``every_n_steps_kept`` marks steps whose checkpoint stays for good. ``best.ckpt`` is another name for the one with
    the lowest held-out fvu. A subclass of Lightning's Checkpoint, which puts it after all other callbacks: what is
    saved is the state after renormalisation and counting.
    """

    def __init__(
        self,
        every_n_steps: Annotated[int, Ge(1)] = 500,
        keep: Annotated[int, Ge(1)] = 2,
        every_n_steps_kept: Annotated[int, Ge(1)] | None = None,
        best: bool = True,
        *,
        run_dir: str,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.every_n_steps_kept = every_n_steps_kept
        self.best = best
        self.folder = Path(run_dir) / "checkpoints"
        self.best_fvu = math.inf
        self._saved_step = -1
        self._evaluation: Evaluation | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluation = find(trainer, Evaluation) if self.best else None

    def state_dict(self) -> dict[str, Any]:
        return {"best_fvu": self.best_fvu}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_fvu = state_dict["best_fvu"]

    def due(self, step: int, total_steps: int) -> bool:
        """Tell whether to look after a step: those that are saved for their number, and Evaluation's."""
        may_be_best = self._evaluation is not None and self._evaluation.due(step, total_steps)
        return may_be_best or self._is_numbered(step, total_steps)

    def _is_numbered(self, step: int, total_steps: int) -> bool:
        return step % self.every_n_steps == 0 or step == total_steps

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step stands."""
        return self.folder / f"step-{step:09d}.ckpt"

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SAEModule)
        step = trainer.global_step
        is_best = self._is_best(trainer)
        if is_best or self._is_numbered(step, pl_module.total_steps):
            self.save(trainer, pl_module)
        if is_best and self._saved_step == step and trainer.is_global_zero:
            path = self.path(step)
            for file in (path, *parts_of(path)):
                best = self.folder / file.name.replace(path.name, "best.ckpt")
                link_or_copy(file, best)
                link_or_copy(checksum_path(file), checksum_path(best))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, StopRequested) and isinstance(pl_module, SAEModule):
            self.save(trainer, pl_module)

    def save(self, trainer: L.Trainer, module: SAEModule) -> None:
        """Write the checkpoint of the present step unless it is there already, then drop the surplus ones."""
        step = trainer.global_step
        if step == self._saved_step:
            return
        drop_bad_lanes(module, weights=True)
        trainer.save_checkpoint(self.path(step))
        self._saved_step = step
        logger.debug("saved %s", self.path(step))
        surplus = [p for p in step_checkpoints(self.folder) if not self._stays(p)][: -self.keep]
        for old in surplus:
            trainer.strategy.remove_checkpoint(old)

    def _stays(self, path: Path) -> bool:
        return bool(self.every_n_steps_kept) and int(path.stem.removeprefix("step-")) % self.every_n_steps_kept == 0

    def _is_best(self, trainer: L.Trainer) -> bool:
        evaluation = self._evaluation
        if evaluation is None or evaluation.evaluated_at != trainer.global_step:
            return False
        fvu = min(evaluation.fvu.values(), default=math.inf)
        if not fvu < self.best_fvu:  # NaN is never best
            return False
        self.best_fvu = fvu
        return True
