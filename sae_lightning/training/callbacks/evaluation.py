"""Held-out metrics during training, from a stream of their own."""

import logging
import math
from collections.abc import Callable

import lightning as L

from sae_lightning.core import ActivationBatch
from sae_lightning.training.callbacks.base import LaneCallback, scalars
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)

Evaluator = Callable[[Lane], dict[str, float]]


class Evaluation(LaneCallback):
    """Call ``evaluate(lane)`` every ``every_n_steps`` steps (0: never) and at the end; log it as ``heldout/...``.

    The evaluator is given, not imported: training does not know the studies. It must not touch the training stream;
    the token order is the same with evaluation on or off, because each has its own source and generators.
    Of several processes with the same SAE the first evaluates and tells the others ``fvu``.
    """

    def __init__(self, evaluate: Evaluator, every_n_steps: int = 250) -> None:
        self.evaluate = evaluate
        self.every_n_steps = every_n_steps
        self.evaluated_at = -1
        self.fvu: dict[str, float] = {}

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        step = trainer.global_step
        for name, lane in module.each_lane() if module.ranks.rank == 0 or module.sharded else []:
            was_training = lane.training
            lane.eval()
            try:
                values = self.evaluate(lane)
            finally:
                lane.train(was_training)
            self.fvu[name] = values.get("fvu", math.nan)
            scalars(trainer, module, name, {f"heldout/{key}": value for key, value in values.items()})
            logger.debug("step %d, lane %s, held out: %s", step, name, values)
        self.fvu = module.ranks.told(self.fvu)
        self.evaluated_at = step
