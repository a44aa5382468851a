"""What the overview's charts are drawn from: histograms of studies' tables and arrays, training curves, maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_lightning.reports.site.data_files import rounded
from sae_lightning.reports.site.features import near_measure, near_values
from sae_lightning.reports.site.reading import Reading

#: Tables of counts between edges end so: (from, to, counts, ...).
HISTOGRAM = "_histogram"
_BINS = 40
_POINTS = 1000
# (x, y) of histograms that are known; the density's edges are powers of ten.
_AXES = {
    "density_histogram": ("active on this share of tokens", "features"),
    "l0_histogram": ("active features", "tokens"),
}
# What a reader of a run looks at first.
_FIRST = ("loss/total", "heldout/fvu", "metrics/fvu", "sparsity/l0", "sparsity/dead", "loss/reconstruction")


@dataclass(frozen=True)
class Chart:
    """A chart's place on the page: id, caption, and what it is to who can't see it; its data for the script."""

    id: str
    caption: str
    data: Mapping[str, Any]


def histograms(study: str, results: Mapping[str, tuple[int, Mapping[str, Any]]]) -> list[Chart]:
    """Return charts of one study's histogram tables. results: by SAE, (number of its colour, ``Result.to_json``)."""
    names = dict.fromkeys(
        name for _, found in results.values() for name in found.get("tables", {}) if name.endswith(HISTOGRAM)
    )
    charts = []
    for name in names:
        series, captions, unit = [], [], "features"
        for sae, (number, found) in results.items():
            table = found["tables"].get(name)
            if not table or not table["rows"]:
                continue
            captions.append(str(table.get("caption") or name))
            lows, highs, *counts = zip(*table["rows"], strict=True)
            columns = table["columns"][2:]
            unit = columns[0] if len(columns) == 1 else "features"
            for place, (label, values) in enumerate(zip(columns, counts, strict=True)):
                said = [sae] * (len(results) > 1) + [label] * (len(columns) > 1)
                series.append(_series(" ".join(said) or label, number + place, zip(lows, highs, strict=True), values))
        if series:
            x, y = _AXES.get(name, (name.removesuffix(HISTOGRAM).replace("_", " "), unit))
            charts.append(_chart(study, name, series, x, y, captions, power=name == "density_histogram"))
    return charts


def array_histograms(readings: Mapping[str, Reading]) -> dict[str, Chart]:
    """Return a chart for studies whose arrays say it best: how near neighbours are, how strong the best neuron's r."""
    wanted = (
        ("similarity", lambda r: None if (near := near_values(r)) is None else near[:, 0], "of the nearest neighbour"),
        ("neuron_correlation", _best_neuron, "|r| with the neuron that goes with a feature most"),
    )
    found = {}
    for study, values_of, x in wanted:
        values = {name: values_of(reading) for name, reading in readings.items()}
        there = {n: v[np.isfinite(v)] for n, v in values.items() if v is not None}
        there = {n: v for n, v in there.items() if len(v)}
        if not there:
            continue
        low, high = min(v.min() for v in there.values()), max(v.max() for v in there.values())
        edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
        series = []
        for number, name in enumerate(readings):
            if name in there:
                counts, _ = np.histogram(there[name], edges)
                pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
                series.append(_series(name if len(readings) > 1 else "features", number, pairs, counts.tolist()))
        if study == "similarity":
            x = f"{near_measure(next(iter(readings.values()))) or 'cosine'} {x}"
        found[study] = _chart(study, "arrays", series, x, "features", [f"Features by {x}"])
    return found


def curves(readings: Mapping[str, Reading]) -> list[dict[str, Any]]:
    """Return the training curves by tag, what is looked at first before the rest; at most 1,000 points each."""
    tags = dict.fromkeys(tag for reading in readings.values() for tag in reading.curves)
    order = [tag for tag in _FIRST if tag in tags] + sorted(tag for tag in tags if tag not in _FIRST)
    found = []
    for tag in order:
        series = []
        for number, (name, reading) in enumerate(readings.items()):
            if tag in reading.curves:
                steps, values = (np.asarray(v, np.float64) for v in reading.curves[tag])
                there = np.isfinite(steps) & np.isfinite(values)
                x, y = _thinned(steps[there], values[there])
                if len(x):
                    series.append({"name": name, "colour": number, "x": x, "y": y})
        if series:
            found.append({"tag": tag, "series": series})
    return found


def places(reading: Reading) -> tuple[list[int], NDArray] | None:
    """Return (features that have a place, places [n, 2]) of the map; None without one."""
    return _placed(reading.array("neighbourhood", "map"))


def map_group(name: str, folder: str, found: tuple[list[int], NDArray]) -> dict[str, Any]:
    """Return one SAE's points as map.js takes them."""
    features, where = found
    x, y = ([rounded(v) for v in where[:, side].tolist()] for side in (0, 1))
    return {"name": name, "folder": folder, "features": features, "x": x, "y": y}


def joint_places(arrays: Mapping[str, NDArray], name: str) -> tuple[list[int], NDArray] | None:
    """Return one SAE's places in the map of several."""
    return _placed(arrays.get(f"map/{name}"))


def _placed(where: NDArray | None) -> tuple[list[int], NDArray] | None:
    if where is None:
        return None
    there = np.flatnonzero(np.isfinite(where).all(1))
    return (there.tolist(), where[there]) if len(there) else None


def _best_neuron(reading: Reading) -> NDArray | None:
    r = reading.array("neuron_correlation", "neuron_correlation")
    return None if r is None else np.abs(r)


def _thinned(x: NDArray, y: NDArray) -> tuple[list[Any], list[Any]]:
    """Return every n-th point and the last."""
    keep = np.arange(len(x))
    if len(x) > _POINTS:
        keep = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(np.int64))
    return [rounded(v) for v in x[keep].tolist()], [rounded(v) for v in y[keep].tolist()]


def _series(name: str, colour: int, edges: Any, counts: Sequence[Any]) -> dict[str, Any]:
    pairs = [[float(low), float(high)] for low, high in edges]
    return {"name": name, "colour": colour, "edges": pairs, "counts": list(counts)}


def _chart(
    study: str,
    name: str,
    series: list[dict[str, Any]],
    x: str,
    y: str,
    captions: Sequence[str],
    power: bool = False,
) -> Chart:
    place = f"{study}-{name}"
    caption = "; ".join(dict.fromkeys(captions))
    data = {"id": place, "series": series, "x": x, "y": y, "unit": y, "power": power}
    return Chart(place, caption, data)
