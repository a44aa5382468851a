"""Everything that a sweep's reading writes: the page, the tables, the figures, the HParams."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lightning.reports.page import write_page
from sae_lightning.reports.sweep_figures import dead_figure, front_figure, save
from sae_lightning.reports.sweep_html import sweep_page
from sae_lightning.reports.sweep_law_figures import law_figure
from sae_lightning.reports.sweep_table import sweep_table, write_table
from sae_lightning.reports.sweep_tensorboard import write_hparams
from sae_lightning.studies.scaling import Collection, Fit, Front, Refusal, front_rows, fronts, preferred, write_front
from sae_lightning.studies.scaling.fronts import L0_DELTA_CE, L0_FVU

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_sweep_report(
    out: Path, title: str, collection: Collection, laws: Sequence[Fit | Refusal], objectives: Mapping[str, str]
) -> dict[str, Path]:
    """Write the report of a sweep into ``out`` and return what was written, by name.

    objectives: of ``pareto.csv``, the front over all runs whatever their architecture.
    """
    found = [item for pair in (L0_FVU, L0_DELTA_CE) for item in fronts(collection, pair)]
    table = sweep_table(collection, found)
    figures = {name: save(figure, out / "figures" / f"{name}.png") for name, figure in _draw(collection, found, laws)}
    write_table(out / "sweep.csv", table)
    write_front(out / "pareto.csv", front_rows(collection.rows, objectives), objectives)
    hparams = out / "tensorboard" / "sweep"  # a folder of our own: beside it may lie a run's own curves
    write_hparams(hparams, table)
    write_page(out / "sweep.html", sweep_page(title, collection, table, found, laws, figures))
    return {
        "page": out / "sweep.html",
        "table": out / "sweep.csv",
        "front": out / "pareto.csv",
        "figures": out / "figures",
        "hparams": hparams,
    }


def _draw(collection: Collection, found: Sequence[Front], laws: Sequence[Fit | Refusal]) -> list[tuple[str, "Figure"]]:
    drawn: list[tuple[str, Figure]] = []
    for pair in (L0_FVU, L0_DELTA_CE):
        if chosen := [item for item in found if item.objectives == pair]:
            drawn.append(("front_" + "_".join(pair), front_figure(collection, chosen)))
    if (dead := dead_figure(collection)) is not None:
        drawn.append(("dead_features", dead))
    best = preferred(laws)
    groups: dict[tuple[str, str], list[Fit]] = {}
    for i, law in enumerate(laws):
        if isinstance(law, Fit) and i in best:
            groups.setdefault((law.law.name, law.subject), []).append(law)
    names: set[str] = set()
    for (law, subject), fits in groups.items():
        base = "law_" + re.sub(r"[^A-Za-z0-9]+", "_", f"{law} {subject}").strip("_")[:80]
        name = base if base not in names else f"{base}_{len(names)}"
        names.add(name)
        drawn.append((name, law_figure(fits)))
    return drawn
