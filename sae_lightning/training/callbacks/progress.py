"""Live progress in the terminal; plain lines where there is no terminal."""

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sae_lightning.activations import StreamSource
from sae_lightning.core import ActivationBatch
from sae_lightning.training.callbacks.base import LaneCallback, find, source_of
from sae_lightning.training.callbacks.evaluation import Evaluation
from sae_lightning.training.lane import Lane
from sae_lightning.training.module import SAEModule

logger = logging.getLogger(__name__)
_FIGURES = "{task.fields[figures]}"


class LiveProgress(LaneCallback):
    """Show tokens, tokens/s, time left, loss, fvu, l0 and dead features; of a bank the number of lanes and the range.

    A bar on a terminal, renewed at most every ``refresh_seconds``; elsewhere (a log file, a queue) one line every
    ``line_seconds``. The figures need a look at the device, so they are fetched only when they are shown.
    """

    def __init__(self, refresh_seconds: float = 0.5, line_seconds: float = 15.0) -> None:
        self.refresh_seconds = refresh_seconds
        self.line_seconds = self.every_seconds = line_seconds
        self._bar: Progress | None = None
        self._task: Any = None
        self._shown = False
        self._started = 0.0
        self._first_tokens = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        self._started = time.perf_counter()
        self.every_seconds, self._shown = self.line_seconds, False
        _, lane = pl_module.each_lane()[0]
        self._first_tokens = int(lane.tokens_seen)
        console = Console(file=sys.stderr)
        if not console.is_terminal:
            return
        self.every_seconds = self.refresh_seconds
        total = pl_module.total_steps * source_of(trainer).batch_size
        self._bar = Progress(
            TextColumn("[bold]tokens"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn(_FIGURES),
            console=console,
            refresh_per_second=4,
        )
        figures = "starting"
        self._task = self._bar.add_task("train", total=total, completed=self._first_tokens, figures=figures)
        self._bar.start()
        source = source_of(trainer)
        if isinstance(source, StreamSource):
            source.on_fill = self._filling

    def _filling(self, rows: int, wanted: int) -> None:
        """Show that the language model is at work: a refill can take longer than many steps."""
        if self._bar is not None:
            self._bar.update(self._task, figures=f"reading the language model: {rows:,} of {wanted:,} rows")

    def due(self, step: int, total_steps: int) -> bool:
        return step == total_steps or not self._shown

    def after_step(self, trainer: L.Trainer, module: SAEModule, batch: ActivationBatch) -> None:
        now, self._shown = time.perf_counter(), True
        _, lane = module.each_lane()[0]
        tokens = int(lane.tokens_seen)
        speed = (tokens - self._first_tokens) / max(now - self._started, 1e-9)
        figures = f"{speed:,.0f} tokens/s  {_bank(module) if module.is_bank else _single(lane)}"
        evaluation = find(trainer, Evaluation)
        heldout = evaluation.fvu if evaluation is not None else {}
        if heldout:
            figures += f"  held-out fvu {_range(list(heldout.values()))}"
        if self._bar is not None:
            self._bar.update(self._task, completed=tokens, figures=figures)
            return
        total = module.total_steps * module.batch_rows
        left = (total - tokens) / max(speed, 1e-9)
        logger.info("%s of %s tokens, %.0f s left, %s", f"{tokens:,}", f"{total:,}", left, figures)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()


def _single(lane: Lane) -> str:
    fvu, l0 = lane.last_fvu_l0()
    # Of features that several processes share, each knows its own; asking the others takes all of them.
    own = lane.sae.execution.feature_ranks.alone
    dead = f"  dead {float(lane.dead().float().mean()):.1%}" if own else ""
    return f"loss {float(lane.last_loss()):.4g}  fvu {fvu:.4f}  l0 {l0:.1f}{dead}"


def _bank(module: SAEModule) -> str:
    lanes = [lane for _, lane in module.each_lane()]
    fvus, l0s = zip(*(lane.last_fvu_l0() for lane in lanes), strict=True)
    dropped = len(module.lanes) - len(lanes)
    gone = f" ({dropped} dropped)" if dropped else ""
    return f"{len(lanes)} lanes{gone}  fvu {_range(fvus)}  l0 {min(l0s):.1f} to {max(l0s):.1f}"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4f}" if len(values) == 1 else f"{low:.4f} to {high:.4f}"
