"""Pictures of a sweep: Pareto fronts, and dead features against width and learning rate."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lightning.core.files import atomic_path
from sae_lightning.studies.scaling import Collection, Front, Record, subjects

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart; yellow left out on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*X"
LABELS = {
    "l0": "L0: active features a token",
    "fvu": "FVU: unexplained share of variance",
    "delta_ce": "added cross-entropy, nats a token",
    "dead": "share of dead features",
    "d_sae": "width N = d_sae",
    "lr": "learning rate",
}


def new_figure(columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 4.4) -> "tuple[Figure, list[Axes]]":
    """Return a figure and its axes, without pyplot: nothing global, no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    return path


def styles(n: int) -> Iterator[tuple[str, str]]:
    """Yield ``n`` pairs of colour and marker."""
    return itertools.islice(zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False), n)


def short(label: str, most: int = 44) -> str:
    """Cut a label that would leave no room for the axes; the page's tables have it whole."""
    return label if len(label) <= most else f"{label[: most - 20]}...{label[-17:]}"


def legend(axis: "Axes", title: str | None = None) -> None:
    """Put a legend beside the axes, where it covers no point."""
    axis.legend(title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, title_fontsize=8)


def logarithmic(axis: "Axis", values: Sequence[float]) -> None:
    """Give an axis a logarithmic scale that reads as plain numbers: at the values that occur, where they are few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis._set_axes_scale("log")  # pyright: ignore[reportAttributeAccessIssue]
    different: list[float] = []
    for value in sorted(set(values)):  # ticks closer than this would be written over each other
        if not different or value > 1.08 * different[-1]:
            different.append(value)
    wide = different[-1] > 100 * different[0]
    few = len(different) <= 8
    axis.set_major_locator(FixedLocator(different) if few else LogLocator(subs=(1,) if wide else (1, 2, 3, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def front_figure(collection: Collection, fronts: Sequence[Front]) -> "Figure":
    """Draw every run and, of each subject, the front as a staircase: what lies above and right of it is dominated."""
    figure, (axis,) = new_figure()
    x, y = fronts[0].objectives
    runs = subjects(collection)
    for item, (colour, marker) in zip(fronts, styles(len(fronts)), strict=True):
        points = [(r.number(x), r.number(y)) for r in runs[item.subject]]
        points = [p for p in points if None not in p]
        axis.scatter(*zip(*points, strict=True), s=22, color=colour, marker=marker, alpha=0.35, linewidths=0)
        path = [(r.number(x), r.number(y)) for r in item.members]
        xs, ys = zip(*path, strict=True)
        axis.step(xs, ys, where="post", color=colour, linewidth=1.2)
        axis.scatter(xs, ys, s=34, color=colour, marker=marker, label=short(item.subject), zorder=3)
    axis.set_xlabel(LABELS.get(x, x))
    axis.set_ylabel(LABELS.get(y, y))
    every = [v for item in fronts for r in runs[item.subject] if (v := r.number(x)) is not None]
    if min(every) > 0:
        logarithmic(axis.xaxis, every)
    axis.set_title(f"Pareto front of {x} and {y}", loc="left", fontsize=11)
    legend(axis)
    return figure


def dead_figure(collection: Collection) -> "Figure | None":
    """Draw dead features against width (a line a learning rate) and against learning rate (a line a width)."""
    known = [r for r in collection.records if None not in (r.number("dead"), r.number("d_sae"), r.number("lr"))]
    if not known:
        return None
    figure, axes = new_figure(columns=2, width=11)
    for axis, (x, line) in zip(axes, (("d_sae", "lr"), ("lr", "d_sae")), strict=True):
        _dead_against(axis, known, x, line)
    return figure


def _dead_against(axis: "Axes", records: Sequence[Record], x: str, line: str) -> None:
    values = sorted({_value(record, line) for record in records})
    from matplotlib import colormaps

    for i, value in enumerate(values):
        colour: Any = colormaps["viridis"](i / max(1, len(values) - 1) * 0.9)
        points = sorted((_value(r, x), _value(r, "dead")) for r in records if _value(r, line) == value)
        axis.scatter(*zip(*points, strict=True), s=20, color=colour, alpha=0.6, linewidths=0)
        means = [
            (at, sum(dead) / len(dead))
            for at, group in itertools.groupby(points, key=lambda p: p[0])
            for dead in [[d for _, d in group]]
        ]
        axis.plot(*zip(*means, strict=True), color=colour, linewidth=1.3, label=f"{value:.5g}")
    logarithmic(axis.xaxis, [_value(r, x) for r in records])
    axis.set_xlabel(LABELS[x])
    axis.set_ylabel(LABELS["dead"])
    axis.set_ylim(-0.02, max(0.1, *(_value(r, "dead") for r in records)) * 1.05)
    axis.set_title(f"Dead features against {'width' if x == 'd_sae' else LABELS[x]}", loc="left", fontsize=11)
    if len(values) <= 12:
        legend(axis, LABELS[line])


def _value(record: Record, name: str) -> float:
    value = record.number(name)
    assert value is not None
    return value
