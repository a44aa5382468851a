"""The table of a sweep: one row a trained SAE, the settings that differ, every metric, and which fronts it is on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lightning.core.files import atomic_path
from sae_lightning.studies.evaluation import HELDOUT_KEYS
from sae_lightning.studies.scaling import Collection, Front
from sae_lightning.studies.scaling.records import SETTINGS

SIZES = ("parameters", "training_flops", "seconds")


@dataclass(frozen=True)
class SweepTable:
    """columns: run_dir, lane, settings..., metrics..., sizes..., on_FRONT...; a row has a value (or None) for each."""

    columns: tuple[str, ...]
    settings: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def sweep_table(collection: Collection, fronts: Sequence[Front]) -> SweepTable:
    """Return the table of all finished runs.

    A setting that every run shares (but for architecture, d_sae and k), and a metric that no run has, is left out.
    """
    records = collection.records
    settings = [
        name
        for name in SETTINGS
        if name in ("architecture", "d_sae", "k") or len({repr(r.values.get(name)) for r in records}) > 1
    ]
    differing = collection.differing()
    metrics = [name for name in (*HELDOUT_KEYS, *SIZES) if any(r.values.get(name) is not None for r in records)]
    on: dict[str, set[int]] = {}
    for item in fronts:
        on.setdefault("on_" + "_".join(item.objectives), set()).update(id(record) for record in item.members)
    rows = tuple(
        {
            "run_dir": record.run_dir,
            "lane": record.lane,
            **{name: record.values.get(name) for name in settings},
            **{name: record.settings.get(name) for name in differing},
            **{name: record.values.get(name) for name in metrics},
            **{name: int(id(record) in members) for name, members in on.items()},
        }
        for record in records
    )
    return SweepTable(tuple(rows[0]), (*settings, *differing), rows)


def write_table(path: Path, table: SweepTable) -> None:
    """Write the table as CSV: floats as Python's ``repr``, an empty field for what was not measured."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        for row in table.rows:
            writer.writerow([repr(v) if isinstance(v := row[name], float) else v for name in table.columns])
