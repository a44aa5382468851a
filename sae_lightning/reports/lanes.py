"""The table at the end of a bank: every lane, those of later additions too."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = ("architecture", "d_sae", "k", "lr", "fvu", "l0", "dead", "delta_ce", "tokens")


def show_lanes(run_dir: Path) -> None:
    """Print one row a lane of the bank in a folder and of the banks added to it, on stdout."""
    console = Console(file=sys.stdout, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=160)  # a log has no width of its own to keep to
    table = Table(title="Lanes, held-out metrics", title_justify="left")
    table.add_column("lane")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "architecture" else "right")
    # Not the bank that lanes were added to, where it is still to finish.
    folders = [f for f in (run_dir, *sorted(run_dir.glob("added-*"))) if (f / "records.jsonl").is_file()]
    for path in [folder / "records.jsonl" for folder in folders]:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            cells = [_cell(record.get(name)) for name in _COLUMNS]
            if "failed" in record:
                cells[4:8] = ["dropped", "-", "-", "-"]
            table.add_row(str(record["lane"]), *cells)
    console.print(table)
    for folder in folders:
        console.print(f"{'lanes':12} {folder / 'lanes'}", highlight=False, markup=False)
    console.print(f"{'run folder':12} {run_dir}", highlight=False, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
