"""The pages of one reading: overview, features, feature, texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lightning.reports.site import charts, shell
from sae_lightning.reports.site.columns import Column
from sae_lightning.reports.site.data_files import write_data
from sae_lightning.reports.site.facts import facts, subtitle
from sae_lightning.reports.site.features import PER_FILE, near_measure
from sae_lightning.reports.site.reading import Reading
from sae_lightning.reports.site.sections import cards, gathered, sections, split_map
from sae_lightning.reports.site.sources import PER_FILE as TEXTS_PER_FILE

_MEASURED = {
    "cosine": "cosine of decoder directions",
    "dot": "dot product of decoder directions",
    "euclidean": "distance of decoder directions",
}
_SHARED = ("core", "tokens", "index")


def write_pages(
    folder: Path, reading: Reading, columns: Sequence[Column], siblings: Mapping[str, str], has_texts: bool
) -> None:
    """Write a reading's pages. columns: of its table. siblings: of several SAEs, the others' folders from here."""
    measure = near_measure(reading)
    site = {
        "id": shell.identity(reading.store.manifest.key),
        "name": reading.name,
        "slug": shell.folder_names([reading.name])[reading.name],
        "d_sae": reading.store.d_sae,
        "assets": "../assets" if siblings else "assets",
        "features_per_file": PER_FILE,
        "texts_per_file": TEXTS_PER_FILE,
        "measure": [[measure, _MEASURED[measure]]] if measure else [],
        "siblings": [{"name": name, "folder": where} for name, where in siblings.items()],
    }
    pages = [("../index.html", "Comparison")] if siblings else []
    pages += [("index.html", "Overview"), ("features.html", "Features")]
    pages += [("texts.html", "Texts")] if has_texts else []
    shared = {
        "policy": shell.STRICT,
        "assets": site["assets"],
        "site": site,
        "brand": reading.name,
        "pages": pages,
        "searchable": True,
    }
    _write_overview(folder, reading, shared)
    table = {
        "title": f"Features: {reading.name}",
        "scripts": ("core", "tokens", "index", "table"),
        "columns": columns,
        "width": sum(column.width for column in columns),
        "example": "cosine>0.9" if any(column.key == "cosine" for column in columns) else "density>0.01",
    }
    one = {"title": f"Feature: {reading.name}", "scripts": ("core", "tokens", "charts", "examples", "feature")}
    texts = {"title": f"Texts: {reading.name}", "scripts": ("core", "tokens", "texts")}
    for name, more in {"features": table, "feature": one, **({"texts": texts} if has_texts else {})}.items():
        shell.write_page(folder, f"{name}.html", name, {**shared, **more, "here": f"{name}.html"})


def _write_overview(folder: Path, reading: Reading, shared: dict[str, Any]) -> None:
    one = {reading.name: reading}
    found = gathered(one)
    shown = sections(found, charts.array_histograms(one))
    drawn = [chart.data for section in shown for chart in section.charts]
    curves = charts.curves(one)
    placed = charts.places(reading)
    write_data(folder, "overview", {"charts": drawn, "curves": curves})
    the_map, others = split_map(shown, "neighbourhood", placed is not None)
    if placed is not None:
        write_data(folder, "map", {"groups": [charts.map_group(reading.name, "", placed)]})
    context = {
        **shared,
        "policy": shell.COMPILING if placed is not None else shell.STRICT,
        "title": f"Reading of {reading.name}",
        "subtitle": subtitle(reading),
        "here": "index.html",
        "scripts": shell.OVERVIEW,
        "names": [reading.name],
        "cards": cards(found),
        "sections": others,
        "curves": bool(curves),
        "map": the_map,
        "facts": [(key, [value]) for key, value in facts(reading).items()],
    }
    shell.write_page(folder, "index.html", "index", context)
