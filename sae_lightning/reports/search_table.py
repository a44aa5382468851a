"""The table of a search, on stdout."""

import sys
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.search_columns import FIGURES, cell_text, feature_text
from sae_lightning.reports.site.escape import visible

# A log has no width of its own to keep to.
_LOG_WIDTH = 160


def show_search(found: dict[str, Any]) -> None:
    """Print what search.json holds: the features, how far estimates are to be trusted, notes, where the pages are."""
    console = Console(file=sys.stdout, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_LOG_WIDTH)
    said = found["tables"]["features"]
    pages = said["columns"].index("page") if "page" in said["columns"] else None
    table = Table(title=Text(visible(said["caption"])), title_justify="left")
    columns = [column for column in said["columns"] if column != "page"]
    for column in columns:
        numeric = all(not isinstance(row[said["columns"].index(column)], str) for row in said["rows"])
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in said["rows"]:
        cells = []
        for column, value in zip(said["columns"], row, strict=True):
            if column == "feature":
                link = None if pages is None or row[pages] is None else row[pages]
                cells.append(Text(feature_text(value), style=Style(link=link) if link else ""))
            elif column != "page":
                cells.append(Text(cell_text(column, value)))
        table.add_row(*cells)
    console.print(table)
    for name, one in found["estimates"].items():
        if one["value"] is not None:
            limits = "" if one["low"] is None else f" [{short(one['low'])}, {short(one['high'])}]"
            line = f"{name}: {short(one['value'])}{limits} over {one['tokens']} features: {FIGURES.get(name, '')}"
            console.print(Text(line))
    for note in found["notes"]:
        console.print(Text(visible(note)))
    if found["report"] is not None:
        console.print(Text(f"pages of features: {visible(found['report'])}?f=FEATURE"))
