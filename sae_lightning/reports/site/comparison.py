"""The overview of several SAEs side by side, with their differences and what joins them."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sae_lightning.reports.site import charts, shell
from sae_lightning.reports.site.data_files import write_data
from sae_lightning.reports.site.facts import facts, subtitle
from sae_lightning.reports.site.reading import Comparison, Reading
from sae_lightning.reports.site.sections import cards, gathered, sections, split_map, together
from sae_lightning.reports.site.tables import ShownTable, shown_table

_SHOWN = 100
_BINS = 40


def write_comparison(
    folder: Path, readings: Mapping[str, Reading], folders: Mapping[str, str], compare: Comparison
) -> None:
    """Write ``index.html`` of a report of several SAEs. folders: where each one's own pages are."""
    found = gathered(readings, compare)
    shown = sections(found, charts.array_histograms(readings), tables=False)
    curves = charts.curves(readings)
    closest = _closest(compare, readings, folders)
    groups = _map(compare, readings, folders)
    the_map, joined = split_map(together(found, folders), "neighbourhoods", bool(groups))
    drawn = [chart.data for section in shown for chart in section.charts]
    drawn += [chart.data for chart in closest["charts"]] if closest else []
    write_data(folder, "overview", {"charts": drawn, "curves": curves})
    if groups:
        write_data(folder, "map", {"groups": groups})
    names = list(readings)
    said = {name: facts(reading) for name, reading in readings.items()}
    keys = list(dict.fromkeys(key for one in said.values() for key in one))
    shell.write_page(
        folder,
        "index.html",
        "compare",
        {
            "policy": shell.COMPILING,
            "assets": "assets",
            "site": {"id": shell.identity(names), "name": "comparison", "slug": "comparison", "assets": "assets"},
            "brand": "Side by side",
            "pages": [("index.html", "Comparison"), *((f"{folders[name]}/index.html", name) for name in names)],
            "searchable": False,
            "here": "index.html",
            "title": f"{' and '.join(names) if len(names) == 2 else f'{len(names)} SAEs'}, side by side",
            "scripts": shell.OVERVIEW,
            "names": names,
            "difference": len(names) == 2,
            "saes": [
                {"name": name, "folder": folders[name], "subtitle": subtitle(reading)}
                for name, reading in readings.items()
            ],
            "cards": cards(found),
            "closest": closest,
            "sections": shown,
            "together": joined,
            "curves": bool(curves),
            "map": the_map,
            "facts": [(key, [said[name].get(key, "") for name in names]) for key in keys],
        },
    )


def _map(compare: Comparison, readings: Mapping[str, Reading], folders: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the points of the map of all SAEs; empty where there is none."""
    result = compare.results.get("neighbourhoods")
    if result is None:
        return []
    found = {name: charts.joint_places(result.arrays, name) for name in readings}
    return [charts.map_group(n, f"{folders[n]}/", placed) for n, placed in found.items() if placed is not None]


def _closest(
    compare: Comparison, readings: Mapping[str, Reading], folders: Mapping[str, str]
) -> dict[str, list[Any]] | None:
    """Return charts of the cosines and, of each ordered pair, the features that are found again and those least so."""
    pairs = {pair: found for pair, found in compare.closest.items() if set(pair) <= set(readings)}
    if not pairs:
        return None
    lowest = min((float(np.min(cosine, initial=1.0)) for _, cosine in pairs.values()), default=0.0)
    steps = np.linspace(np.floor(10 * np.clip(lowest, -1, 0.9)) / 10, 1, _BINS + 1)
    series, tables = [], []
    for number, ((a, b), (index, cosine)) in enumerate(pairs.items()):
        there = np.asarray(index) >= 0
        counts, _ = np.histogram(np.clip(np.asarray(cosine)[there], -1, 1), steps)
        edges = [[float(low), float(high)] for low, high in pairwise(steps)]
        series.append({"name": f"{a} in {b}", "colour": number, "edges": edges, "counts": counts.tolist()})
        # A feature that never fires is nothing to be found again, nor does it say what another one is.
        fires = np.asarray(readings[b].store.stats.count) > 0
        alive = np.flatnonzero(there & (np.asarray(readings[a].store.stats.count) > 0) & fires[np.asarray(index)])
        order = alive[np.argsort(-np.asarray(cosine)[alive], kind="stable")]
        for caption, chosen in (
            (f"Features of {a} that {b} has as well: the nearest", order[:_SHOWN]),
            (f"Features of {a} that {b} has least", order[::-1][:_SHOWN]),
        ):
            rows = [[int(i), int(index[i]), float(cosine[i])] for i in chosen]
            tables.append(_table(caption, a, b, rows, folders))
    caption = "Features by the cosine with the nearest feature of the other SAE"
    data = {"id": "closest", "series": series, "x": "cosine", "y": "features", "unit": "features", "power": False}
    return {"charts": [charts.Chart("closest", caption, data)], "tables": tables}


def _table(caption: str, a: str, b: str, rows: list[list[Any]], folders: Mapping[str, str]) -> ShownTable:
    columns = [f"feature of {a}", f"feature of {b}", "cosine"]
    return shown_table(caption, {"columns": columns, "rows": rows, "caption": caption}, folders, "closest")
