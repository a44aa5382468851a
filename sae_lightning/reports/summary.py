"""The table at the end of a run."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sae_lightning.studies.meaning import meaning


def show_summary(metrics: dict[str, float | None], files: dict[str, Path]) -> None:
    """Print the held-out metrics and the paths of what was written, on stdout."""
    console = Console(file=sys.stdout, soft_wrap=True)
    table = Table(title="Held-out metrics", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("meaning", overflow="fold")
    for name, value in metrics.items():
        table.add_row(name, "-" if value is None else f"{value:.4f}", meaning(name))
    console.print(table)
    for what, path in files.items():
        console.print(f"{what:12} {path}", highlight=False, markup=False)
