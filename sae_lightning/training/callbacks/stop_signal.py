"""Ctrl-C and SIGTERM: finish the step, save, leave."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from sae_lightning.activations import StopRequested
from sae_lightning.training.callbacks.base import source_of
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)


class StopSignal(LightningCheckpoint):
    """On the first SIGINT or SIGTERM ask the source to stop and end after the present step; a second one kills.

    Raises StopRequested out of ``fit``: from the source when it is busy with the language model (within one
    micro-batch; its state is still that of the last batch), else after the step. Checkpoints then saves the state.
    Of several processes each tells the others with its next step, and all end after the same one.
    A Lightning Checkpoint only so that it runs after Checkpoints.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._module: SAEModule | None = None
        self._source: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        assert isinstance(pl_module, SAEModule)
        self._module, self._source = pl_module, source_of(trainer)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.received = number
        logger.warning("%s: stopping after this step; once more to stop at once", signal.Signals(number).name)
        assert self._module is not None
        self._module.together.received = number
        if self._module.ranks.alone:
            self._module.agenda.stop()
            self._source.request_stop()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def due(self, step: int, total_steps: int) -> bool:
        """No step is due: a signal ends the stretch by itself."""
        return False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SAEModule)
        if not pl_module.ranks.alone:
            self.received = pl_module.together.stop
        if self.received is not None:
            raise StopRequested(f"{signal.Signals(self.received).name} at step {trainer.global_step}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Every step is done and saved: what remains is measuring, which a signal may end at once.
        self._restore()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()
