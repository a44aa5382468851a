"""The scalars of a run: losses, reconstruction, sparsity, throughput, every n steps."""

import time
from typing import Annotated

import lightning as L
from annotated_types import Ge

from sae_lightning.core import ActivationBatch
from sae_lightning.training.callbacks.base import LaneCallback, scalars
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule

WINDOW_TOKENS = 10_000_000


class MetricsLog(LaneCallback):
    """Every ``every_n_steps`` steps log the means of the steps since the last time.

    ``loss/<term>`` (unweighted), ``loss/<term>_lambda_eff`` (its coefficient in the per-token convention),
    ``loss/total``; ``metrics/fvu`` and ``metrics/mse`` of the training batches;
    ``sparsity/l0`` (per token), ``sparsity/l0_rolling`` (over the last 12,000 steps), ``sparsity/active_per_batch``
    and ``sparsity/active_last_10M`` (shares of all features), ``sparsity/dead`` (share, by tokens),
    ``throughput/tokens_per_s`` and ``throughput/lr``, ``weights/grad_norm`` (before clipping).
    """

    def __init__(self, every_n_steps: Annotated[int, Ge(1)] = 10) -> None:
        self.every_n_steps = every_n_steps
        self._since = 0.0
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._step = time.perf_counter(), trainer.global_step

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        now, step = time.perf_counter(), trainer.global_step
        speed = (step - self._step) * module.batch_rows / max(now - self._since, 1e-9)
        self._since, self._step = now, step
        for name, lane in module.each_lane():
            values = lane.take_averages() | feature_shares(lane)
            values["throughput/tokens_per_s"] = speed
            values["throughput/lr"] = module.rate_of(name)
            values["throughput/tokens"] = float(lane.tokens_seen)
            for term, value in lane.lambda_eff(module.batch_rows, module.progress).items():
                values[f"loss/{term}_lambda_eff"] = value
            values["weights/grad_norm"] = module.grad_norm_of(name)
            scalars(trainer, module, name, values)


def feature_shares(lane: Lane) -> dict[str, float]:
    """Return which share of the features is dead, and which was active within the last 10M tokens."""
    return {
        "sparsity/dead": lane.dead_share(),
        "sparsity/active_last_10M": 1.0 - lane.dead_share(min(WINDOW_TOKENS, int(lane.tokens_seen))),
        "sparsity/l0_rolling": lane.rolling_l0(),
    }
