"""Several optimiser steps in one Trainer step: the batches it is handed, and when it has to be over."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch

from sae_lightning.core import ActivationBatch

#: Hooks that Lightning calls once a Trainer step; a callback that has one and does not say when it is due wants all.
_AROUND = ("on_train_batch_start", "on_train_batch_end")
#: Hooks within an optimiser step, in their order. Without Lightning's loop it is for the module to call them.
WITHIN = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


@runtime_checkable
class Actor(Protocol):
    """A callback that is called within a stretch (``callbacks.base.LaneCallback``)."""

    every_seconds: float | None

    def due(self, step: int, total_steps: int) -> bool: ...

    def after_step(self, trainer: L.Trainer, module: Any, batch: ActivationBatch) -> None: ...


class Stretch:
    """What the Trainer hands to ``training_step`` as its batch: the source's batches, pulled one by one.

    Nothing is read before it is asked for, so that the source's state is always that of the last batch trained on.
    device: where batches are moved to. last: the batch pulled last. Not a dataclass or a container: Lightning would
    take it apart.
    """

    def __init__(self, batches: Iterator[ActivationBatch]) -> None:
        self._batches = batches
        self.device: torch.device | None = None
        self.last: ActivationBatch | None = None

    def pull(self) -> ActivationBatch:
        """Return the next batch on ``device``; StopRequested and the like come out of the source as they are."""
        batch = next(self._batches, None)
        # Lightning takes a StopIteration within its loops for an empty Trainer step, and would go on for ever.
        assert batch is not None, "the source ran dry: sources are endless"
        if self.device is not None and batch.x.device != self.device:
            x = batch.x.to(self.device, non_blocking=True)
            y = x if batch.y is batch.x else batch.y.to(self.device, non_blocking=True)
            batch = replace(batch, x=x, y=y)
        self.last = batch
        return batch


class Agenda:
    """Who acts after which step, and when a stretch has to be over.

    A callback with an ``after_step`` is called there and then, within the stretch: after each step for which it is
    ``due(step, total_steps)``, and when ``every_seconds`` (where set) have passed since it last acted. One that is due
    and has no ``after_step`` acts in Lightning's own hook, so the stretch ends at that step. A callback that knows
    nothing of all this and overrides one of Lightning's hooks around a Trainer step wants every step: stretches are
    then one step long.

    Otherwise a stretch ends after ``seconds``, after the last step, and once ``stop`` has been called (by a signal
    handler, say). Where they end makes no difference to what is learnt, logged or saved.
    """

    def __init__(self, total_steps: int, seconds: float = 0.2) -> None:
        self.total_steps = total_steps
        self.seconds = seconds
        self.hooks: dict[str, list[Callable[..., None]]] = {}
        self._actors: list[Actor] = []
        self._clocks: list[tuple[Actor, float]] = []
        self._acted_at: dict[Actor, float] = {}
        self._ends: list[Callable[[int, int], bool]] = []
        self._last = total_steps
        self._until = 0.0
        self._every_step = True
        self._stop = False

    def consult(self, callbacks: Sequence[L.Callback], max_steps: int = -1) -> None:
        """Ask the callbacks of a run when they want to act.

        max_steps: the Trainer's own limit, -1 where it has none.
        """
        self._last = min(self.total_steps, max_steps) if max_steps >= 0 else self.total_steps
        self.hooks = {name: [getattr(c, name) for c in callbacks if _overrides(c, name)] for name in WITHIN}
        self._actors = [callback for callback in callbacks if isinstance(callback, Actor)]
        self._clocks = [(actor, actor.every_seconds) for actor in self._actors if actor.every_seconds is not None]
        self._acted_at = dict.fromkeys((actor for actor, _ in self._clocks), time.perf_counter())
        others = [callback for callback in callbacks if not isinstance(callback, Actor)]
        self._ends = [c.due for c in others if hasattr(c, "due")]  # pyright: ignore[reportAttributeAccessIssue]
        ignorant = (callback for callback in others if not hasattr(callback, "due"))
        self._every_step = any(_overrides(c, name) for c in ignorant for name in _AROUND)

    def begin(self) -> None:
        """Start the clock of a stretch."""
        self._stop = False
        self._until = time.perf_counter() + self.seconds

    def stop(self) -> None:
        """Let the stretch end after the present step. Safe in a signal handler."""
        self._stop = True

    def actors(self, step: int) -> list["Actor"]:
        """Return who acts after ``step`` (the number of steps done), in the order of the callbacks."""
        acting = [actor for actor in self._actors if actor.due(step, self.total_steps)]
        if self._clocks:
            now = time.perf_counter()
            late = {actor for actor, seconds in self._clocks if now - self._acted_at[actor] >= seconds}
            if late:
                acting = [actor for actor in self._actors if actor in late or actor in acting]
            self._acted_at |= dict.fromkeys((actor for actor in acting if actor in self._acted_at), now)
        return acting

    def over(self, step: int) -> bool:
        """Tell whether the stretch ends after ``step``."""
        return (
            self._every_step
            or self._stop
            or step >= self._last
            or any(due(step, self.total_steps) for due in self._ends)
            or time.perf_counter() >= self._until
        )


def _overrides(callback: L.Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(L.Callback, hook)
