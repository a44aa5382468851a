"""The table of an evaluation: one SAE with what its figures mean, or several side by side."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_lightning.reports import evaluation_data as data
from sae_lightning.studies.meaning import meaning

# A log has no width of its own to keep to.
_LOG_WIDTH = 160


def show_evaluation(evaluation: dict[str, Any]) -> None:
    """Print every figure with its 95 % interval, on stdout; notes below."""
    console = Console(file=sys.stdout, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_LOG_WIDTH)
    names = data.names(evaluation)
    console.print(_single(evaluation, names[0]) if len(names) == 1 else _side_by_side(evaluation, names))
    for name in names:
        for study, result in evaluation["saes"][name]["studies"].items():
            for note in result.get("notes", ()):
                where = study if len(names) == 1 else f"{name}, {study}"
                console.print(Text(f"{where}: {note}"))
    for study, result in evaluation.get("comparisons", {}).items():
        if study != data.COMPARE and result["estimates"]:  # differences are words beside the figures already
            console.print(_together(study, result))
        for note in result.get("notes", ()):
            console.print(Text(f"{study}: {note}"))


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left")


def _single(evaluation: dict[str, Any], name: str) -> Table:
    table = _columns(_table(f"Evaluation of {name}: held-out data, 95 % intervals"))
    for study in data.studies(evaluation):
        table.add_section()
        table.add_row(Text(study, style="bold"))
        for metric in data.metrics(evaluation, study):
            found = data.figure(evaluation, name, study, metric)
            assert found is not None  # the only SAE
            table.add_row(*_row(metric, found))
    return table


def _together(study: str, result: dict[str, Any]) -> Table:
    table = _columns(_table(f"{study}: 95 % intervals"), "over")
    for metric, value in result["estimates"].items():
        table.add_row(*_row(metric, data.Figure(**value)))
    return table


def _row(metric: str, found: data.Figure) -> tuple[Text, str, Text, str, str]:
    return Text(metric), data.short(found.value), Text(found.interval), f"{found.tokens:,}", meaning(metric)


def _columns(table: Table, tokens: str = "tokens") -> Table:
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    table.add_column(tokens, justify="right", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    return table


def _side_by_side(evaluation: dict[str, Any], names: list[str]) -> Table:
    table = _table(f"Evaluation of {len(names)} SAEs: held-out data, 95 % intervals; ≈ cannot be told from it")
    table.add_column("metric", no_wrap=True)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for study in data.studies(evaluation):
        table.add_section()
        table.add_row(Text(study, style="bold"))
        for metric in data.metrics(evaluation, study):
            words = data.standing(evaluation, study, metric)
            cells = []
            for name in names:
                found = data.figure(evaluation, name, study, metric)
                parts = ("-",) if found is None else (data.short(found.value), found.interval, words.get(name, ""))
                cells.append(Text(" ".join(part for part in parts if part)))
            table.add_row(Text(metric), *cells)
    return table
