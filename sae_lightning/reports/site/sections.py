"""The overview's sections: of each study estimates with intervals, pictures, tables, notes; generic, so that a study
that is added needs nothing here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_lightning.reports import evaluation_data as data
from sae_lightning.reports.evaluation_figures import Mark, whiskers
from sae_lightning.reports.evaluation_sections import PICTURES
from sae_lightning.reports.site.about import about, heading, in_order
from sae_lightning.reports.site.charts import HISTOGRAM, Chart, histograms
from sae_lightning.reports.site.reading import Comparison, Reading
from sae_lightning.reports.site.tables import ShownTable, shown_table
from sae_lightning.reports.site.units import over
from sae_lightning.studies.meaning import meaning

# Studies of the evaluation whose pictures are made of lines and words; histograms become charts.
_DRAWN = ("downstream", "probe")
# What a reader asks first, where it was measured.
_KEY = (
    ("reconstruction", "fvu"),
    ("downstream", "ce_recovered_mean"),
    ("downstream", "delta_ce"),
    ("downstream", "kl"),
    ("density", "l0"),
    ("sparsity", "l0"),
    ("density", "dead"),
    ("sparsity", "dead"),
    ("density", "rare"),
    ("density", "dense_share"),
    ("similarity", "nearest_cosine"),
    ("completeness", "covered"),
    ("reconstruction", "cosine"),
    ("groundtruth", "f1"),
    ("groundtruth", "mcc"),
)

#: What stands for a figure that was asked for and has no value.
NO_VALUE = "–"


@dataclass(frozen=True)
class Row:
    """One metric: of each SAE (value, interval, a word about how it stands); of two, their difference.

    over: on how much it was measured; of SAEs that differ in that, each one's number.
    """

    metric: str
    meaning: str
    values: tuple[tuple[float | None, str, str, str, int], ...]  # value, shown, interval, word, tokens
    difference: tuple[str, str, bool] | None = None  # shown, interval, surely one
    over: str = ""


@dataclass(frozen=True)
class Section:
    """A study on the page. pictures: HTML that is safe."""

    id: str
    heading: str
    about: str
    rows: tuple[Row, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[ShownTable, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: str = ""


@dataclass(frozen=True)
class Card:
    """A key figure: what it is, where it is from, its value (of one SAE) and its picture, HTML that is safe.

    over: on how much it was measured. note: why there is no value, where there is none.
    """

    metric: str
    study: str
    meaning: str
    shown: str
    interval: str
    picture: str
    over: str
    note: str = ""


def gathered(readings: Mapping[str, Reading], comparison: Comparison | None = None) -> dict[str, Any]:
    """Return everything that was found in the form of ``evaluation.json``, which reports/evaluation_data.py reads.

    What several SAEs were asked together is from the comparison; a reading's own evaluation is of its SAE alone.
    """
    whole = (comparison.evaluation if comparison else None) or {}
    saes = {name: {"studies": _studies(name, reading, whole)} for name, reading in readings.items()}
    together = {name: result.to_json() for name, result in comparison.results.items()} if comparison else {}
    return {"saes": saes, "comparisons": {**(whole.get("comparisons") or {}), **together}}


def _studies(name: str, reading: Reading, whole: Mapping[str, Any]) -> dict[str, Any]:
    evaluated = (reading.evaluation or {}).get("saes") or {}
    only = next(iter(evaluated.values())) if len(evaluated) == 1 else {}
    mine = (whole.get("saes") or {}).get(name) or evaluated.get(name, only)
    studies = dict(mine.get("studies") or {})
    return {**studies, **{study: result.to_json() for study, result in reading.results.items()}}


def cards(found: dict[str, Any]) -> list[Card]:
    """Return the key figures; one that two studies measured stands there once."""
    names = data.names(found)
    out: dict[str, Card] = {}
    for study, metric in _KEY:
        figures = {name: data.figure(found, name, study, metric) for name in names}
        there = {name: f for name, f in figures.items() if f is not None}
        if not there or (metric in out and out[metric].shown != NO_VALUE):
            continue
        known = {name: f for name, f in there.items() if f.value is not None}
        note = _why(found, [name for name in there if name not in known], study)
        if not known:
            out.setdefault(metric, Card(metric, study, meaning(metric), NO_VALUE, "", "", "", note))
            continue
        words = data.standing(found, study, metric)
        several = len(names) > 1
        marks = [Mark(n if several else "", f, words.get(n, ""), names.index(n)) for n, f in there.items()]
        first = next(iter(there.values()))
        picture = whiskers(marks, metric) if several or (first.interval and first.low != first.high) else ""
        shown, interval = ("", "") if several else (data.short(first.value), first.interval)
        measured = over(study, {name: f.tokens for name, f in known.items()})
        out[metric] = Card(metric, study, meaning(metric), shown, interval, picture, measured, note)
    return list(out.values())


def _why(found: dict[str, Any], without: Sequence[str], study: str) -> str:
    """Return why a figure of these SAEs has no value: what the study notes, if it notes anything."""
    said: dict[str, str] = {}
    for name in without:
        notes = found["saes"][name]["studies"][study].get("notes") or ["no value on what was read"]
        said[name] = "; ".join(str(note) for note in notes)
    if len(without) == len(found["saes"]) and len(set(said.values())) == 1:
        return said[without[0]]
    return "; ".join(f"{name}: {note}" for name, note in said.items())


def sections(found: dict[str, Any], extra: Mapping[str, Chart], tables: bool = True) -> list[Section]:
    """Return a section for every study, in the order of the page.

    extra: a further chart, by study. tables: whether each SAE's tables and notes are shown; on a page of several they
    are not, for each has a page of its own.
    """
    names = data.names(found)
    asked = list(dict.fromkeys(study for sae in found["saes"].values() for study in sae["studies"]))
    out = []
    for study in in_order(asked):
        if study == "colouring":
            continue  # a page of its own
        results = {
            name: (number, found["saes"][name]["studies"][study])
            for number, name in enumerate(names)
            if study in found["saes"][name]["studies"]
        }
        charts = histograms(study, results) + ([extra[study]] if study in extra else [])
        shown: list[ShownTable] = []
        notes: list[str] = []
        pictures = ""
        for name, (number, result) in results.items() if tables else ():
            listed = {k: t for k, t in result.get("tables", {}).items() if not k.endswith(HISTOGRAM)}
            shown += [shown_table(k, t, study=study) for k, t in listed.items()]
            notes += [str(note) for note in result.get("notes", ())]
            pictures += PICTURES[study](result, name, number) if study in _DRAWN else ""
        rows = tuple(row(found, study, metric) for metric in data.metrics(found, study))
        section = Section(
            study, heading(study), about(study), rows, tuple(charts), tuple(shown), tuple(notes), pictures
        )
        if rows or charts or shown or notes or pictures:
            out.append(section)
    return out


def split_map(shown: Sequence[Section], study: str, there: bool) -> tuple[Section | None, list[Section]]:
    """Return (the section of the map, the others). there: whether there is one; else its section is like any other."""
    if not there:
        return None, list(shown)
    found = next((section for section in shown if section.id == study), Section(study, heading(study), about(study)))
    return found, [section for section in shown if section.id != study]


def row(found: dict[str, Any], study: str, metric: str) -> Row:
    """Return one metric of every SAE, and of two SAEs the second's minus the first's."""
    names = data.names(found)
    words = data.standing(found, study, metric)
    figures = [data.figure(found, name, study, metric) for name in names]
    values = tuple(
        (None, "" if figure is None else NO_VALUE, "", "", 0)
        if figure is None or figure.value is None
        else (figure.value, data.short(figure.value), figure.interval, words.get(name, ""), figure.tokens)
        for name, figure in zip(names, figures, strict=True)
    )
    measured = over(study, [figure.tokens for figure in figures if figure is not None and figure.value is not None])
    return Row(metric, meaning(metric), values, _difference(found, study, metric, names, figures), measured)


def _difference(
    found: dict[str, Any], study: str, metric: str, names: Sequence[str], figures: Sequence[data.Figure | None]
) -> tuple[str, str, bool] | None:
    """Return the second's minus the first's; with its interval where the two were compared window by window."""
    if len(names) != 2:
        return None
    first, second = (None if f is None else f.value for f in figures)
    if first is None or second is None:
        return "", "", False
    for one in data.differences(found):
        if (one["study"], one["metric"]) == (study, metric) and {one["a"], one["b"]} == set(names):
            sign = -1 if one["a"] == names[0] else 1
            ends = [one["low"], one["high"]]
            if None in ends:
                break
            low, high = sorted(sign * end for end in ends)
            return data.short(second - first), f"[{data.short(low)}, {data.short(high)}]", not low <= 0 <= high
    return data.short(second - first), "", False


def together(found: dict[str, Any], folders: Mapping[str, str]) -> list[Section]:
    """Return a section for every comparative study but the map, with links into each SAE's folder."""
    out = []
    for study in in_order(list(found["comparisons"])):
        result = found["comparisons"][study]
        # Differences have a table that says more of each.
        estimates = {} if study == data.COMPARE else result.get("estimates", {})
        rows = []
        for name, value in estimates.items():
            figure = data.Figure(**value)
            there = figure.value is not None
            shown = (figure.value, data.short(figure.value) if there else NO_VALUE, figure.interval, "", figure.tokens)
            rows.append(Row(name, meaning(name), (shown,), over=over(study, [figure.tokens])))
        tables = tuple(shown_table(k, t, folders, study) for k, t in result.get("tables", {}).items())
        notes = tuple(str(note) for note in result.get("notes", ()))
        out.append(Section(study, heading(study), about(study), tuple(rows), (), tables, notes))
    return out
