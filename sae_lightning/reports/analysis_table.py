"""The table of an analysis: what studies of a store found, with intervals."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_lightning.reports.evaluation_data import Figure, short
from sae_lightning.studies import Result
from sae_lightning.studies.meaning import meaning

# A log has no width of its own to keep to.
_LOG_WIDTH = 160


def show_results(title: str, results: Mapping[str, Result]) -> None:
    """Print every estimate with its 95 % interval, on stdout, and the studies' notes below."""
    console = Console(file=sys.stdout, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_LOG_WIDTH)
    table = Table(title=Text(title), title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval")
    table.add_column("over", justify="right")
    table.add_column("meaning", overflow="fold")
    for study, result in results.items():
        if not result.estimates:
            continue
        table.add_section()
        table.add_row(Text(study, style="bold"))
        for name, value in result.estimates.items():
            found = Figure(value.value, value.low, value.high, value.tokens)
            table.add_row(Text(name), short(found.value), Text(found.interval), f"{found.tokens:,}", meaning(name))
    if table.row_count:
        console.print(table)
    for study, result in results.items():
        for note in result.notes:
            console.print(Text(f"{study}: {note}"))
