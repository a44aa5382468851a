"""The Pareto fronts of a sweep: sparsity against loss, an architecture at a time, with the area each dominates."""

from collections.abc import Mapping
from dataclasses import dataclass

from sae_lightning.studies.scaling.laws import subjects
from sae_lightning.studies.scaling.pareto import front, hypervolume, sign
from sae_lightning.studies.scaling.records import Collection, Record

L0_FVU = {"l0": "minimise", "fvu": "minimise"}
L0_DELTA_CE = {"l0": "minimise", "delta_ce": "minimise"}


@dataclass(frozen=True)
class Front:
    """The runs of a subject that no other of its runs beats.

    members: in the order of the first objective. area: hypervolume up to ``reference``, the worst value of each
    objective over all runs of the sweep, so that the areas of its subjects compare (of fvu: 1, the mean predictor,
    where no run is worse).
    """

    subject: str
    objectives: Mapping[str, str]
    members: tuple[Record, ...]
    area: float
    reference: tuple[float, ...]


def fronts(collection: Collection, objectives: Mapping[str, str]) -> list[Front]:
    """Return the front of each subject; those without a run that has every objective are left out."""
    directions = list(objectives.values())
    known = [r for r in collection.records if all(r.number(name) is not None for name in objectives)]
    if not known:
        return []
    reference = tuple(_worst(known, name, direction) for name, direction in objectives.items())
    found = []
    for subject, records in subjects(collection).items():
        points = [[record.number(name) for name in objectives] for record in records]
        members = tuple(records[i] for i in front(points, directions))
        if members:
            area = hypervolume(points, directions, reference)
            found.append(Front(subject, objectives, members, area, reference))
    return found


def _worst(records: list[Record], name: str, direction: str) -> float:
    values = [value for record in records if (value := record.number(name)) is not None]
    if name == "fvu":
        values.append(1.0)
    return max(values) if sign(direction) > 0 else min(values)
