"""Schedules of a coefficient over training: pure functions of the step, so that nothing has to be saved."""

import math
from dataclasses import dataclass
from typing import Literal

from sae_lightning.core.errors import UserError

Kind = Literal["constant", "warmup", "linear", "cosine", "two_phase"]
KINDS: tuple[Kind, ...] = ("constant", "warmup", "linear", "cosine", "two_phase")


@dataclass(frozen=True)
class Schedule:
    """A coefficient ``c(t)`` at progress ``t = step / total_steps`` in [0, 1].

    - ``constant``:  ``value``
    - ``warmup``:    ``value * min(1, t / warmup)``: linear from 0 over the first share ``warmup`` of training
    - ``linear``:    from ``value`` at 0 to ``final`` at 1
    - ``cosine``:    from ``value`` to ``final`` along half a cosine
    - ``two_phase``: ``0`` before the share ``warmup`` of training, ``value`` after it (first reconstruct, then
      sparsify: the idea in an L1 practitioner's log)

    ``value`` and ``final`` are in the unit of whatever they multiply; ``warmup`` is a share of training, not steps.
    """

    value: float
    kind: Kind = "constant"
    warmup: float = 0.05
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"schedule kind={self.kind!r}: must be one of {', '.join(KINDS)}")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"schedule warmup={self.warmup}: a share of training between 0 and 1")
        if not (math.isfinite(self.value) and math.isfinite(self.final)):
            raise UserError(f"schedule value={self.value}, final={self.final}: must be finite numbers")

    def at(self, progress: float) -> float:
        """Return the coefficient at ``progress`` (clamped to [0, 1])."""
        t = min(max(progress, 0.0), 1.0)
        match self.kind:
            case "constant":
                return self.value
            case "warmup":
                return self.value if self.warmup == 0 else self.value * min(1.0, t / self.warmup)
            case "linear":
                return self.value + (self.final - self.value) * t
            case "cosine":
                return self.final + (self.value - self.final) * 0.5 * (1 + math.cos(math.pi * t))
            case "two_phase":
                return 0.0 if t < self.warmup else self.value
