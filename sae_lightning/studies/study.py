"""The form of a study: subjects go in, numbers with intervals come out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import Estimate
from sae_lightning.studies.subject import Subject

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Result:
    """What a study found.

    draws: the bootstrap draws behind the intervals, by estimate; in memory only, for comparisons draw by draw.
    arrays: numbers of every feature, [d_sae, ...] each, by name; -1 and NaN where there is none.
    """

    estimates: dict[str, Estimate]
    tables: dict[str, Table] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    draws: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    arrays: dict[str, NDArray] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float | None]:
        return {name: estimate.value for name, estimate in self.estimates.items()}

    @property
    def tokens(self) -> int:
        """The largest number of tokens that any estimate is over."""
        return max((estimate.tokens for estimate in self.estimates.values()), default=0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, without draws and arrays."""
        tables = {
            name: {
                "columns": list(t.columns),
                "rows": [[_plain(c) for c in row] for row in t.rows],
                "caption": t.caption,
            }
            for name, t in self.tables.items()
        }
        estimates = {
            name: {key: _plain(v) for key, v in asdict(estimate).items()} for name, estimate in self.estimates.items()
        }
        return {"estimates": estimates, "tables": tables, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Result":
        """Read ``to_json``'s form."""
        tables = {
            name: Table(tuple(t["columns"]), tuple(tuple(row) for row in t["rows"]), t["caption"])
            for name, t in value["tables"].items()
        }
        return cls({name: Estimate(**e) for name, e in value["estimates"].items()}, tables, tuple(value["notes"]))


class Study(ABC):
    """One question: ``run(subject) -> Result``. Leaves the SAE in the mode and with the weights it came with.

    reads_store: whether it is asked of a feature store; else of held-out data.
    """

    name: ClassVar[str]
    reads_store: ClassVar[bool] = False

    def reason(self, subject: Subject) -> str | None:
        """Return why the question can't be asked of ``subject``, as the end of a message; None where it can."""
        return None

    @abstractmethod
    def run(self, subject: Subject) -> Result:
        """Answer the question for ``subject``."""


class ComparativeStudy(ABC):
    """A question about several SAEs: ``run_all(subjects, results) -> Result``. reads_store: see ``Study``."""

    name: ClassVar[str]
    reads_store: ClassVar[bool] = False

    def reason_all(self, subjects: Mapping[str, Subject]) -> str | None:
        """Return why the question can't be asked of these; None where it can."""
        return None if len(subjects) > 1 else "needs at least two SAEs; give sae=[A,B]"

    @abstractmethod
    def run_all(self, subjects: Mapping[str, Subject], results: Mapping[str, Mapping[str, Result]]) -> Result:
        """Answer the question. results: by SAE and study, what was found of each alone."""


def defined(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return ``values`` with None in place of NaN: what has no value has none, also in JSON."""
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def _plain(value: Any) -> Cell:
    """Return a cell as JSON has it: no numpy scalars, no NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
