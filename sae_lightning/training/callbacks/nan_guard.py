"""Stop a run whose loss is no longer a number, before its weights are spoiled, and say where it happened."""

from typing import Annotated, Any

import lightning as L
import torch
from annotated_types import Ge
from torch import Tensor

from sae_lightning.core import ActivationBatch, UserError
from sae_lightning.training.callbacks.base import LaneCallback
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule


class NonFiniteLoss(UserError):  # noqa: N818 - says what happened
    """The loss became NaN or infinite."""


class NaNGuard(LaneCallback):
    """Raise NonFiniteLoss when a lane's loss is NaN or infinite.

    On the CPU before the optimiser steps, so that the weights stay those of the last good step. On a GPU a look at
    the loss would stall the device, so the lane notes the first bad step there and it is looked up every
    ``every_n_steps`` steps and before every checkpoint.
    """

    def __init__(self, every_n_steps: Annotated[int, Ge(1)] = 50) -> None:
        self.every_n_steps = every_n_steps

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if pl_module.device.type == "cpu":
            assert isinstance(pl_module, SAEModule)
            check_finite(pl_module)

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        if module.device.type != "cpu" and trainer.global_step % self.every_n_steps == 0:
            check_finite(module)


def check_finite(module: SAEModule) -> None:
    """Raise NonFiniteLoss if a lane has seen a bad loss (one host sync)."""
    for name, lane in module.each_lane():
        step = int(lane.first_bad_step)
        if step >= 0:
            raise NonFiniteLoss(_describe(name, lane, step))


def check_finite_weights(module: SAEModule) -> None:
    """Raise NonFiniteLoss if a lane's weights are not finite: an overflow in the step that no later loss has seen."""
    for name, lane in module.each_lane():
        if not all(bool(torch.isfinite(p).all()) for p in lane.sae.parameters()):
            raise NonFiniteLoss(_describe(name, lane, int(lane.steps_done)))


def _describe(name: str, lane: Lane, step: int) -> str:
    def value(tensor: Tensor) -> str:
        return f"{float(tensor):g}"

    terms = ", ".join(f"{term}={value(loss)}" for term, loss in lane.bad_terms.items())
    broken = [n for n, p in lane.sae.named_parameters() if not torch.isfinite(p).all()]
    cause = f"; already non-finite: {', '.join(broken)}" if broken else ""
    return (
        f"lane {name!r}: the loss is not finite at step {step} ({terms}{cause}): training stopped, the last good "
        "checkpoint is kept; lower optimizer.lr, keep optimizer.clip on, or check the activations"
    )
