"""The site of one reading, or of several: pages, data and assets, in a folder that opens from disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sae_lightning.core import UserError
from sae_lightning.core.progress import Advance, progress
from sae_lightning.reports.site import shell
from sae_lightning.reports.site.columns import write_table
from sae_lightning.reports.site.comparison import write_comparison
from sae_lightning.reports.site.features import Closest, top_tokens, write_features
from sae_lightning.reports.site.figures import write_figures
from sae_lightning.reports.site.folder import report_folder
from sae_lightning.reports.site.pages import write_pages
from sae_lightning.reports.site.reading import Comparison, Extent, Reading
from sae_lightning.reports.site.sources import write_sources
from sae_lightning.reports.site.texts import write_texts


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
            write_comparison(folder, {r.name: r for r in readings}, folders, compare or Comparison())
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
    siblings = [name for name in folders if name != reading.name]
    tops = top_tokens(reading, extent, advance)
    columns = write_table(folder, reading, extent, tops)
    used = write_features(folder, reading, extent, tops, _closest(compare, reading.name, siblings), advance)
    write_sources(folder, reading.store, used)
    has_texts = write_texts(folder, reading, tops)
    write_pages(folder, reading, columns, {name: f"../{folders[name]}" for name in siblings}, has_texts)


def _closest(compare: Comparison, name: str, siblings: Sequence[str]) -> list[Closest]:
    """Return, of one SAE, what lies nearest in each of its siblings."""
    return [
        (number, *compare.closest[name, sibling])
        for number, sibling in enumerate(siblings)
        if (name, sibling) in compare.closest
    ]
