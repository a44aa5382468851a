"""When a source hands out its batches: what a step takes through the Trainer, however many it does in one go."""

import time
from itertools import pairwise
from typing import Any, Protocol

import torch

from sae_lightning.build import Run


class _Enough(Exception):  # noqa: N818 - not an error
    """All steps that were asked for have been made."""


class Source(Protocol):
    """A source whose batches come from ``next``."""

    def next(self) -> Any: ...


class StampedSource:
    """Notes when ``source.next()`` is called, and ends the run at call number ``n_steps + 1``.

    cuda: notes it on the device's own clock by events, so that nothing has to wait for the device between steps.
    """

    def __init__(self, source: Source, n_steps: int, *, cuda: bool = False) -> None:
        self.n_steps = n_steps
        self.stamps: list[Any] = []
        self._cuda = cuda
        self._hand_out = source.next
        source.next = self._next

    def _next(self) -> Any:
        self.stamps.append(self._now())
        if len(self.stamps) > self.n_steps:
            raise _Enough
        return self._hand_out()

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> list[float]:
        """Return the seconds of each step, the first ones too."""
        pairs = list(pairwise(self.stamps))
        if not self._cuda:
            return [after - before for before, after in pairs]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairs]


def fit_until_measured(run: Run, source: StampedSource) -> None:
    """Train until ``source`` has seen its steps; nothing is exported or evaluated at the end.

    Raises RuntimeError when the run ends before that: its figures would be those of fewer steps.
    """
    try:
        run.trainer.fit(run.module, datamodule=run.datamodule)
    except _Enough:
        return
    finally:
        run.data.source.close()
    raise RuntimeError(f"the run ended after {len(source.stamps)} batches of {source.n_steps}")
