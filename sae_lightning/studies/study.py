"""The form of a study: a subject goes in, numbers come out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sae_lightning.studies.subject import Subject


@dataclass(frozen=True)
class Result:
    """Numbers of one study. ``None``: not defined for this subject (no language model, nothing to divide by).

    tokens: how many tokens the values are over.
    """

    values: dict[str, float | None]
    tokens: int


class Study(ABC):
    """One question: ``run(subject) -> Result``. Leaves the SAE in the mode and with the weights it came with."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, subject: Subject) -> Result:
        """Answer the question for ``subject``."""


def defined(values: dict[str, float]) -> dict[str, float | None]:
    """Return ``values`` with None in place of NaN: what has no value has none, also in JSON."""
    return {name: value if value == value else None for name, value in values.items()}
