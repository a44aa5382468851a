"""Steered texts on stdout: side by side, or by strength."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.site.escape import visible

# A log has no width of its own to keep to.
_LOG_WIDTH = 160


def show_steering(found: Mapping[str, Any]) -> None:
    """Print what steering.json holds: the edits, and texts beside each other or, of a dose-response, its figures."""
    console = Console(file=sys.stdout, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_LOG_WIDTH)
    for one in found["features"]:
        most = "" if one["maximum"] is None else f", maximum on {visible(found['store'])} {short(one['maximum'])}"
        edit = f": {one['edit']}" if one["edit"] else ""
        said = f" ({visible(one['explanation'])})" if one["explanation"] else ""
        console.print(Text(f"feature {one['feature']}{said}{edit}{most}"))
    if found["dose"] is None:
        for number, prompt in enumerate(found["prompts"]):
            for group in found["groups"]:
                console.print(_side_by_side(group, number, prompt))
    else:
        for table in found["dose"]["tables"].values():
            console.print(_plain(table))
    for note in [*found["notes"], *((found["dose"] or {}).get("notes") or [])]:
        console.print(Text(visible(note)))


def _side_by_side(group: Mapping[str, Any], number: int, prompt: str) -> Table:
    """Return a table of one prompt: a row for each sample, a column for each way of writing it."""
    table = Table(title=Text(visible(prompt)), title_justify="left", show_lines=True)
    columns = []
    for variant in group["variants"]:
        table.add_column(Text(visible(variant["name"])), overflow="fold", ratio=1)
        columns.append([sample for sample in variant["samples"] if sample["prompt"] == number])
    for row in zip(*columns, strict=True):
        table.add_row(*(Text(visible(sample["text"]) + (" ⏹" if sample["ended"] else "")) for sample in row))
    return table


def _plain(said: Mapping[str, Any]) -> Table:
    table = Table(title=Text(visible(said["caption"])), title_justify="left")
    for i, column in enumerate(said["columns"]):
        numeric = all(not isinstance(row[i], str) for row in said["rows"])
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in said["rows"]:
        table.add_row(
            *(Text("" if cell is None else visible(cell) if isinstance(cell, str) else short(cell)) for cell in row)
        )
    return table
