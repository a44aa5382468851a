"""Stop a run whose loss is no longer a number, before its weights are spoiled, and say where it happened."""

import logging
import math
from typing import Annotated, Any

import lightning as L
import torch
from annotated_types import Ge
from torch import Tensor

from sae_lightning.core import ActivationBatch, UserError
from sae_lightning.training.callbacks.base import LaneCallback
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)
_REMEDY = "lower optimizer.lr, keep optimizer.clip on, or check the activations"


class NonFiniteLoss(UserError):  # noqa: N818 - says what happened
    """The loss became NaN or infinite."""


class NaNGuard(LaneCallback):
    """Raise NonFiniteLoss when the loss is NaN or infinite; in a bank drop that lane, and raise when none is left.

    On the CPU before the optimiser steps, so that the weights stay those of the last good step. On a GPU a look at
    the loss would stall the device, so the lane notes the first bad step there and it is looked up every
    ``every_n_steps`` steps and before every checkpoint.
    """

    def __init__(self, every_n_steps: Annotated[int, Ge(1)] = 50) -> None:
        self.every_n_steps = every_n_steps
        self._on_cpu = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._on_cpu = pl_module.device.type == "cpu"

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, SAEModule)
        if self._on_cpu and not all(math.isfinite(lane.last_loss()) for _, lane in pl_module.each_lane()):
            drop_bad_lanes(pl_module)

    def due(self, step: int, total_steps: int) -> bool:
        return not self._on_cpu and step % self.every_n_steps == 0

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        drop_bad_lanes(module)


def drop_bad_lanes(module: SAEModule, *, weights: bool = False) -> None:
    """Drop each lane that has seen a bad loss (one host sync a lane); raise NonFiniteLoss when none is left.

    A dropped lane trains no further: its gradients go, and with them the optimiser leaves its weights alone.
    weights: look at the weights as well, for an overflow in the step that no later loss has seen.
    """
    for name, lane in module.each_lane():
        step = lane.first_bad()
        if step < 0 and weights and _overflowed(module, lane):
            step = int(lane.steps_done)
            lane.first_bad_step.fill_(step)
        if step < 0:
            continue
        what = _describe(name, lane, step)
        lane.alive = False
        if not module.each_lane():
            raise NonFiniteLoss(f"{what}: training stopped, the last good checkpoint is kept; {_REMEDY}")
        for parameter in lane.sae.parameters():
            parameter.grad = None
        logger.warning("%s: dropped, the other %d lanes go on; %s", what, len(module.each_lane()), _REMEDY)


def _overflowed(module: SAEModule, lane: Lane) -> bool:
    """Return whether a weight is no longer a number; of a sharded SAE, in whichever process it lies."""
    bad = not all(bool(torch.isfinite(p).all()) for p in lane.sae.parameters())
    return any(module.ranks.objects(bad)) if module.sharded else bad


def _describe(name: str, lane: Lane, step: int) -> str:
    def value(tensor: Tensor) -> str:
        return f"{float(tensor):g}"

    terms = ", ".join(f"{term}={value(loss)}" for term, loss in lane.figures.terms.items())
    broken = [n for n, p in lane.sae.named_parameters() if not torch.isfinite(p).all()]
    cause = f"; already non-finite: {', '.join(broken)}" if broken else ""
    return f"lane {name!r}: the loss is not finite at step {step} ({terms}{cause})"
