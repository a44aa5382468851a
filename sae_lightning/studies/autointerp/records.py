"""What is recorded of a unit, a feature or a neuron, before anybody explains it: stretches of text and activations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

#: Level of a stretch on which the unit is silent.
SILENT = -1


@dataclass(frozen=True, order=True)
class Unit:
    """A feature of the SAE, or a neuron of the language model. layer: of the neuron's block, -1 for a feature."""

    kind: Literal["feature", "neuron"]
    index: int
    layer: int = -1

    def __str__(self) -> str:
        return f"feature {self.index}" if self.kind == "feature" else f"neuron {self.layer}.{self.index}"


@dataclass(frozen=True)
class Stretch:
    """Some tokens of one text, and the unit's activation on each of them (0 where it is not active or masked).

    pieces: exact source characters of each token. at: place in the stretch of the token it was chosen for. text:
    number of the text in its corpus. level: which equal slice of (floor, largest activation] the activation at ``at``
    lies in, counted from 0 for the weakest; ``SILENT`` where the unit is active nowhere in the stretch.
    """

    pieces: tuple[str, ...]
    token_ids: Int[NDArray, "n"]
    values: Float[NDArray, "n"]
    at: int
    text: int
    level: int

    @property
    def source(self) -> str:
        """The characters of the whole stretch."""
        return "".join(self.pieces)

    @property
    def active(self) -> bool:
        """Whether the unit is active anywhere in the stretch."""
        return bool(np.any(self.values > 0))


@dataclass(frozen=True)
class Record:
    """A unit and the text it was seen on.

    shown: stretches for the explainer, strongest first, then some of every level. held: stretches for scoring, of all
    levels, from texts of which none is shown. silent: stretches for scoring on which the unit is not active, drawn
    evenly from those texts. largest: its largest activation; density: share of tokens it is active on. floor: what an
    activation must pass to count (0 for features); what does not is 0 in every stretch.
    """

    unit: Unit
    largest: float
    density: float
    shown: tuple[Stretch, ...]
    held: tuple[Stretch, ...]
    silent: tuple[Stretch, ...]
    floor: float = 0.0


class Recorder(Protocol):
    """Gives the records of units, one after the other: memory does not grow with their number."""

    def records(self, units: Sequence[Unit]) -> Iterator[Record]: ...
