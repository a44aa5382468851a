"""How far a run is, in a small file that anybody may read while it goes on."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L

from sae_lightning.core import ActivationBatch, write_json
from sae_lightning.training.callbacks.base import LaneCallback, find
from sae_lightning.training.callbacks.evaluation import Evaluation
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)


class ProgressFile(LaneCallback):
    """Write ``progress.json`` every ``every_seconds``, at the start and at the end.

    ``step total_steps tokens tokens_per_s`` (of this sitting), ``fvu l0`` of the last batch (of the first lane that
    trains), ``heldout_fvu`` of the last evaluation (the best lane's), ``lanes`` that train and ``lanes_dropped``,
    ``state`` (running, stopped or trained) and ``updated`` (unix seconds).
    """

    def __init__(self, run_dir: str, every_seconds: float = 5.0) -> None:
        self.path = Path(run_dir) / "progress.json"
        self.every_seconds = every_seconds
        self._started = 0.0
        self._first_tokens = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        self._started = time.perf_counter()
        self._first_tokens = self._tokens(pl_module)
        self._write(trainer, pl_module, "running")

    def due(self, step: int, total_steps: int) -> bool:
        return False  # by the clock alone; `on_train_end` writes the last one

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        self._write(trainer, module, "running")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        self._write(trainer, pl_module, "trained")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(pl_module, SAEModule):
            self._write(trainer, pl_module, "stopped")

    def _tokens(self, module: SAEModule) -> int:
        return max((int(lane.tokens_seen) for _, lane in module.every_lane()), default=0)

    def _write(self, trainer: L.Trainer, module: SAEModule, state: str) -> None:
        now = time.perf_counter()
        living, tokens = module.each_lane(), self._tokens(module)
        values: dict[str, Any] = {
            "step": trainer.global_step,
            "total_steps": module.total_steps,
            "tokens": tokens,
            "tokens_per_s": round((tokens - self._first_tokens) / max(now - self._started, 1e-9), 1),
            "lanes": len(living),
            "lanes_dropped": len(module.lanes) - len(living),
            "state": state,
            "updated": round(time.time(), 1),
        }
        if living and int(living[0][1].steps_done) and living[0][1].has_looked:
            fvu, l0 = living[0][1].last_fvu_l0()
            values |= {"fvu": _finite(fvu), "l0": _finite(l0)}
        evaluation = find(trainer, Evaluation)
        if evaluation is not None and evaluation.fvu:
            values["heldout_fvu"] = _finite(min(evaluation.fvu.values()))
        try:
            write_json(self.path, values)
        except OSError as error:  # nobody's run should end for want of its progress
            logger.debug("%s: cannot be written (%s)", self.path, error)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
