"""The table of an interpretation: every score of features, neurons and shuffled explanations, with intervals."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_lightning.reports.evaluation_data import Figure, short
from sae_lightning.reports.site.escape import visible
from sae_lightning.studies.meaning import meaning

GROUPS = {
    "features": "features",
    "neurons": "neurons",
    "features_shuffled": "features, shuffled",
    "neurons_shuffled": "neurons, shuffled",
    "features-shuffled": "features - shuffled",
    "neurons-shuffled": "neurons - shuffled",
    "features-neurons": "features - neurons",
}
_LOG_WIDTH = 160


def show_interpretation(said: dict[str, Any]) -> None:
    """Print every score by group, on stdout. said: as interpretation.json has it."""
    console = Console(file=sys.stdout, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=_LOG_WIDTH)
    counts = {kind: sum(unit["kind"] == kind for unit in said["units"]) for kind in ("feature", "neuron")}
    title = (
        f"Interpretation of {counts['feature']} features and {counts['neuron']} neurons by {visible(said['explainer'])}"
    )
    table = Table(title=Text(title), title_justify="left")
    for column, justify in (("score", "left"), ("of", "left"), ("value", "right"), ("95 % interval", "left")):
        table.add_column(column, justify=justify)  # pyright: ignore[reportArgumentType] - a literal each
    table.add_column("units", justify="right")
    table.add_column("meaning", overflow="fold")
    for name, groups in by_score(said).items():
        table.add_section()
        for i, (group, found) in enumerate(groups.items()):
            cells = (Text("" if i else name), GROUPS.get(group, group), short(found.value), Text(found.interval))
            table.add_row(*cells, f"{found.tokens:,}", "" if i else meaning(name))
    console.print(table)
    for note in said["result"]["notes"]:
        console.print(Text(note))


def by_score(said: dict[str, Any]) -> dict[str, dict[str, Figure]]:
    """Return the figures by score and group, in the order in which groups are shown."""
    out: dict[str, dict[str, Figure]] = {}
    for full, found in said["result"]["estimates"].items():
        name, _, group = full.partition("/")
        out.setdefault(name, {})[group] = Figure(found["value"], found["low"], found["high"], found["tokens"])
    return {name: {group: groups[group] for group in GROUPS if group in groups} for name, groups in out.items()}
