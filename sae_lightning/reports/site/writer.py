"""The site of one reading, or of several: pages, data and assets, in a folder that opens from disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lightning.core import UserError
from sae_lightning.core.progress import Advance, progress
from sae_lightning.reports.site import charts, shell
from sae_lightning.reports.site.columns import write_table
from sae_lightning.reports.site.comparison import write_comparison
from sae_lightning.reports.site.data_files import write_data
from sae_lightning.reports.site.facts import facts, subtitle
from sae_lightning.reports.site.features import PER_FILE, Closest, near_measure, top_tokens, write_features
from sae_lightning.reports.site.figures import write_figures
from sae_lightning.reports.site.folder import report_folder
from sae_lightning.reports.site.reading import Comparison, Extent, Reading
from sae_lightning.reports.site.sections import cards, gathered, sections, split_map
from sae_lightning.reports.site.sources import PER_FILE as TEXTS_PER_FILE
from sae_lightning.reports.site.sources import write_sources
from sae_lightning.reports.site.texts import write_texts

# Scripts, styles and pictures from the report's own folder, and nothing from anywhere else: no page reaches a network,
# and text that came through every other guard would still not run.
_POLICY = (
    "default-src 'none'; script-src 'self' file:{}; style-src 'self' file: 'unsafe-inline'; img-src data: blob:; "
    "form-action 'self' file:; base-uri 'none'"
)
_STRICT = _POLICY.format("")
#: Of a page with a map: Plotly compiles the shaders of many points.
_COMPILING = _POLICY.format(" 'unsafe-eval'")
_MEASURED = {
    "cosine": "cosine of decoder directions",
    "dot": "dot product of decoder directions",
    "euclidean": "distance of decoder directions",
}
_SHARED = ("core", "tokens", "index")


def write_site(
    out: Path,
    readings: Sequence[Reading],
    *,
    compare: Comparison | None = None,
    extent: Extent = Extent(),  # noqa: B008 - frozen
    also: Callable[[Path], object] | None = None,
    show_progress: bool = True,
) -> Path:
    """Write the report of ``readings`` into the folder ``out`` and return ``out``.

    One reading: ``index.html``, ``features.html``, ``feature.html`` and, where texts were coloured, ``texts.html``.
    Several: an overview side by side, and the same pages for each in a folder of its own. Figures go to
    ``tensorboard/``. Everything is written beside ``out`` and renamed into its place.

    compare: what joins several readings. extent: how much of each feature is shown. also: writes further files into the
    folder that it is called with, before that takes its place.

    Raises UserError: no reading, two of one name, an ``out`` that holds something else, jinja2 or plotly missing.
    """
    names = [reading.name for reading in readings]
    if not names:
        raise UserError("readings=[]: there is nothing to report; give at least one store")
    if len(set(names)) < len(names):
        raise UserError(f"names {', '.join(names)}: each SAE needs a name of its own; rename one")
    shell.environment()
    with report_folder(Path(out)) as folder:
        shell.write_assets(folder / "assets")
        folders = shell.folder_names(names) if len(names) > 1 else {names[0]: ""}
        for reading in readings:
            total = 2 * reading.store.d_sae
            with progress(f"report of {reading.name}", total, show_progress) as advance:
                _write_reading(folder, reading, folders, compare or Comparison(), extent, advance)
        if len(names) > 1:
            write_comparison(folder, {r.name: r for r in readings}, folders, compare or Comparison(), _COMPILING)
        write_figures(folder / "tensorboard", readings)
        if also is not None:
            also(folder)
    return Path(out)


def _write_reading(
    root: Path,
    reading: Reading,
    folders: Mapping[str, str],
    compare: Comparison,
    extent: Extent,
    advance: Advance,
) -> None:
    folder = root / folders[reading.name]
    folder.mkdir(exist_ok=True)
    several = len(folders) > 1
    siblings = [name for name in folders if name != reading.name]
    tops = top_tokens(reading, extent, advance)
    columns = write_table(folder, reading, extent, tops)
    used = write_features(folder, reading, extent, tops, _closest(compare, reading.name, siblings), advance)
    write_sources(folder, reading.store, used)
    measure = near_measure(reading)
    has_texts = write_texts(folder, reading, tops)
    site = {
        "id": shell.identity(reading.store.facts.get("sae"), reading.store.manifest.key),
        "name": reading.name,
        "slug": shell.folder_names([reading.name])[reading.name],
        "d_sae": reading.store.d_sae,
        "assets": "../assets" if several else "assets",
        "features_per_file": PER_FILE,
        "texts_per_file": TEXTS_PER_FILE,
        "measure": [[measure, _MEASURED[measure]]] if measure else [],
        "siblings": [{"name": name, "folder": f"../{folders[name]}"} for name in siblings],
    }
    pages = [{"href": "../index.html", "text": "Comparison"}] if several else []
    pages += [{"href": "index.html", "text": "Overview"}, {"href": "features.html", "text": "Features"}]
    pages += [{"href": "texts.html", "text": "Texts"}] if has_texts else []
    shared = {
        "policy": _STRICT,
        "assets": site["assets"],
        "site": site,
        "brand": reading.name,
        "pages": pages,
        "searchable": True,
    }
    _write_overview(folder, reading, shared, len(columns))
    width = sum(column.width for column in columns)
    asked = next((f"{c.key}>0.9" for c in columns if c.key == "cosine"), "density>0.01")
    for name, template, scripts, more in (
        ("features.html", "features", (*_SHARED, "table"), {"columns": columns, "width": width, "example": asked}),
        ("feature.html", "feature", ("core", "tokens", "charts", "examples", "feature"), {}),
    ):
        title = f"{'Features' if name == 'features.html' else 'Feature'}: {reading.name}"
        context = {**shared, **more, "title": title, "here": name, "scripts": scripts}
        shell.write_page(folder, name, template, context)
    if has_texts:
        context = {**shared, "title": f"Texts: {reading.name}", "here": "texts.html"}
        shell.write_page(folder, "texts.html", "texts", {**context, "scripts": ("core", "tokens", "texts")})


def _write_overview(folder: Path, reading: Reading, shared: dict[str, Any], columns: int) -> None:
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
        "policy": _COMPILING if placed is not None else _STRICT,
        "title": f"Reading of {reading.name}",
        "subtitle": subtitle(reading),
        "here": "index.html",
        "scripts": (*_SHARED, "charts", "map", "overview"),
        "names": [reading.name],
        "cards": cards(found),
        "sections": others,
        "curves": bool(curves),
        "map": the_map,
        "facts": [(key, [value]) for key, value in facts(reading).items()],
    }
    shell.write_page(folder, "index.html", "index", context)


def _closest(compare: Comparison, name: str, siblings: Sequence[str]) -> list[Closest]:
    """Return, of one SAE, what lies nearest in each of its siblings."""
    return [
        (number, *compare.closest[name, sibling])
        for number, sibling in enumerate(siblings)
        if (name, sibling) in compare.closest
    ]
