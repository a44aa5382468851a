"""The table at the end of a run."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sae_lightning.studies.meaning import meaning


def show_summary(
    metrics: Mapping[str, float | None], files: Mapping[str, Path], intervals: Mapping[str, Sequence[float] | None]
) -> None:
    """Print the held-out metrics, their 95 % intervals and the paths of what was written, on stdout."""
    console = Console(file=sys.stdout, soft_wrap=True)
    table = Table(title="Held-out metrics", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval")
    table.add_column("meaning", overflow="fold")
    for name, value in metrics.items():
        limits = intervals.get(name)
        shown = "" if limits is None else f"[{limits[0]:.4f}, {limits[1]:.4f}]"
        table.add_row(name, "-" if value is None else f"{value:.4f}", escape(shown), meaning(name))
    console.print(table)
    for what, path in files.items():
        console.print(f"{what:12} {path}", highlight=False, markup=False)
