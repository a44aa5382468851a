"""Say so when a run has collapsed to the bias, and why that usually happens."""

import logging
from typing import Annotated

import lightning as L
from annotated_types import Ge

from sae_lightning.core import ActivationBatch
from sae_lightning.training.callbacks.base import LaneCallback
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)


class CollapseAlarm(LaneCallback):
    """Warn once a lane's fvu stays above 0.98 with l0 below 1 for ``patience`` looks, one every ``every_n_steps``.

    Then the SAE predicts its bias for every input: the reconstruction loss rests at the variance and outputs are all
    equal. In nearly every log the cause is the loss convention: element-mean MSE with a batch-summed L1 makes the
    effective coefficient (``lambda_eff``, per-token convention) ``lambda * batch * d_in`` (SCIENCE of the L1 notes).
    """

    def __init__(self, every_n_steps: Annotated[int, Ge(1)] = 20, patience: Annotated[int, Ge(1)] = 3) -> None:
        self.every_n_steps = every_n_steps
        self.patience = patience
        self._strikes: dict[str, int] = {}

    def due(self, step: int, total_steps: int) -> bool:
        return step % self.every_n_steps == 0  # the last step is no look of its own

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        for name, lane in module.each_lane():
            fvu, l0 = lane.last_fvu_l0()
            strikes = self._strikes.get(name, 0) + 1 if fvu > 0.98 and l0 < 1 else 0
            self._strikes[name] = strikes
            if strikes == self.patience:
                logger.warning("%s", self.message(name, lane, fvu, l0, module.batch_rows, module.progress))

    def message(self, name: str, lane: Lane, fvu: float, l0: float, batch_size: int, progress: float) -> str:
        """Return the alarm: what was seen, the effective coefficients, the cause and the remedy."""
        effective = lane.lambda_eff(batch_size, progress)
        shown = ", ".join(f"{term}: lambda_eff={value:g}" for term, value in effective.items()) or "no sparsity term"
        return (
            f"lane {name!r} has collapsed: fvu {fvu:.3f} with l0 {l0:.2f} means that it predicts its bias alone "
            f"({shown}, in the per-token convention where 5 is usual); lower the sparsity coefficient, or the "
            "learning rate if the coefficient is already small"
        )
