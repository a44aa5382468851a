"""Pareto fronts: which runs no other run beats in every objective, what area they dominate, and the file they make.

A sweeper that has objectives of its own says so with ``save_objectives(sweep_dir, objectives)`` and writes
``write_front(sweep_dir / "pareto.csv", front_rows(collect([sweep_dir]).rows, objectives), objectives)``
(``records.collect``); ``python -m sae_lightning.sweep sweep_dir`` then recomputes the same bytes.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lightning.core.errors import UserError
from sae_lightning.core.files import atomic_path, write_json

OBJECTIVES_FILE = "objectives.json"
_SIGNS = {"minimise": 1.0, "maximise": -1.0, "minimize": 1.0, "maximize": -1.0}


def sign(direction: str) -> float:
    """Return 1 for ``minimise`` and -1 for ``maximise``; raise UserError for any other direction."""
    if direction not in _SIGNS:
        raise UserError(f"direction={direction!r}: must be minimise or maximise; use one of them")
    return _SIGNS[direction]


def front(points: Sequence[Sequence[float | None]], directions: Sequence[str]) -> list[int]:
    """Return the indices of the non-dominated points, best first objective first.

    ``p`` dominates ``q`` when it is as good in every objective and better in one; equal points do not dominate each
    other, so all of them stay. A point with a missing (None) or non-finite value takes no part.

    points: n points of one value an objective. directions: ``minimise`` or ``maximise`` for each objective.
    """
    signs = [sign(direction) for direction in directions]
    costs: dict[int, tuple[float, ...]] = {}
    for i, point in enumerate(points):
        values = [value for value in point if value is not None and math.isfinite(value)]
        if len(values) == len(signs):
            costs[i] = tuple(s * v for s, v in zip(signs, values, strict=True))
    # In lexicographic order nothing is dominated by what follows it, so each point meets only the front so far, and
    # of two objectives only its last point, which is the best so far in the second.
    kept: list[int] = []
    for i in sorted(costs, key=lambda i: (costs[i], i)):
        rivals = kept[-1:] if len(signs) == 2 else kept
        if not any(_dominates(costs[j], costs[i]) for j in rivals):
            kept.append(i)
    return kept


def _dominates(p: tuple[float, ...], q: tuple[float, ...]) -> bool:
    return p != q and all(a <= b for a, b in zip(p, q, strict=True))


def hypervolume(
    points: Sequence[Sequence[float | None]], directions: Sequence[str], reference: Sequence[float]
) -> float:
    """Return the volume that the points dominate inside the box that ``reference`` (its worst corner) closes.

    Exact, any number of objectives, by slicing along the last one; points outside the box count only by what of
    theirs is inside, which is nothing.
    """
    signs = [sign(direction) for direction in directions]
    corner = [s * r for s, r in zip(signs, reference, strict=True)]
    costs = [[s * v for s, v in zip(signs, points[i], strict=True) if v is not None] for i in front(points, directions)]
    return _volume([c for c in costs if all(a < r for a, r in zip(c, corner, strict=True))], corner)


def _volume(costs: list[list[float]], corner: list[float]) -> float:
    if not costs:
        return 0.0
    if len(corner) == 1:
        return corner[0] - min(c[0] for c in costs)
    costs = sorted(costs, key=lambda c: c[-1])
    ends = [c[-1] for c in costs[1:]] + [corner[-1]]
    total = 0.0
    for n, (cost, end) in enumerate(zip(costs, ends, strict=True), start=1):
        if end > cost[-1]:
            total += (end - cost[-1]) * _volume([c[:-1] for c in costs[:n]], corner[:-1])
    return total


def front_rows(records: Iterable[Mapping[str, Any]], objectives: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the front of some records as rows ``run_dir, lane, objective...`` in an order of their own.

    records:    mappings with ``run_dir`` (relative to the sweep's folder), ``lane`` and a number an objective.
    objectives: metric -> direction, in the order of the columns.

    The order (by the objectives' values, then by run_dir and lane) does not depend on the order of the records.
    """
    ordered = sorted(records, key=lambda record: (str(record["run_dir"]), str(record["lane"])))
    points = [[_number(record.get(name)) for name in objectives] for record in ordered]
    return [
        {"run_dir": ordered[i]["run_dir"], "lane": ordered[i]["lane"], **dict(zip(objectives, points[i], strict=True))}
        for i in front(points, list(objectives.values()))
    ]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def write_front(path: Path, rows: Sequence[Mapping[str, Any]], objectives: Iterable[str] = ()) -> None:
    """Write the rows of ``front_rows`` as CSV, floats as Python's ``repr``: equal fronts give equal bytes.

    objectives: the columns after run_dir and lane; those of the first row where none are given.
    """
    columns = ["run_dir", "lane", *(objectives or list(rows[0] if rows else ())[2:])]
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([repr(v) if isinstance(v := row[name], float) else v for name in columns])


def save_objectives(folder: Path, objectives: Mapping[str, str]) -> None:
    """Write what a sweep minimises and maximises beside its runs, so that its front can be recomputed."""
    for direction in objectives.values():
        sign(direction)
    write_json(folder / OBJECTIVES_FILE, dict(objectives))


def load_objectives(folder: Path) -> dict[str, str] | None:
    """Return what ``save_objectives`` wrote; None where it wrote nothing. Raises UserError for a damaged file."""
    path = folder / OBJECTIVES_FILE
    if not path.is_file():
        return None
    try:
        objectives = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(objectives, dict) or not objectives:
            raise ValueError("it holds no objectives")
        return {str(name): direction for name, direction in objectives.items() if sign(str(direction))}
    except ValueError as error:
        raise UserError(f"{path}: is no list of objectives ({error}); remove it or restore it") from None
