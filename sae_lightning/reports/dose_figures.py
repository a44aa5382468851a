"""Curves over strengths as SVG inside the page, one line a feature, each point with its interval.

Strengths stand side by side at equal distances, for those of interest lie close to 0 and far from it. A feature is told
by its colour and by its mark. Colours are the page's, so they follow light and dark.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.evaluation_figures import colour
from sae_lightning.reports.page import text

STYLE = """
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.2rem 1.6rem;
  margin: 1rem 0; }
.curves figure { min-width: 0; } .curves figcaption { font-size: 13px; line-height: 1.35; }
.curves svg { display: block; width: 100%; max-width: 40rem; height: auto; }
.curves svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); }
.curves .grid { stroke: var(--line); stroke-width: 1; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: 13px; }
.keys svg { width: 34px; height: 14px; vertical-align: -2px; margin-right: .35em; }
"""
_WIDTH, _HEIGHT = 460.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 8.0, 10.0, 40.0
# Room that all features of one strength share, of the distance between two.
_SPREAD = 0.42


@dataclass(frozen=True)
class Point:
    """A figure at a strength, with its interval. place: number of the strength's place on the axis."""

    place: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """A feature's points; its number tells colour and mark. Points of the first ``apart`` places are not joined."""

    name: str
    number: int
    points: tuple[Point, ...]
    apart: int = 1


@dataclass(frozen=True)
class _Scale:
    ticks: tuple[float, ...]
    place: Callable[[float], float]


def curves(
    lines: Sequence[Curve],
    places: Sequence[str],
    label: str,
    *,
    axis: str = "",
    log: bool = False,
) -> str:
    """Draw a figure's curves over ``places``, the strengths' names. axis: what these are.

    log: on a logarithmic scale; else from 0, or from below where values are.
    """
    values = [v for line in lines for p in line.points for v in (p.value, p.low, p.high) if v is not None]
    values = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not values:
        return ""
    scale = _logarithmic(values) if log else _linear(values)
    step = (_WIDTH - _LEFT - _RIGHT) / len(places)
    shapes = []
    for tick in scale.ticks:
        y = scale.place(tick)
        shapes.append(f'<line class=grid x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for number, name in enumerate(places):
        x = _LEFT + (number + 0.5) * step
        shapes.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{text(name)}</text>')
    shapes.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{text(axis)}</text>'
    )
    for row, line in enumerate(lines):
        offset = 0.0 if len(lines) == 1 else _SPREAD * (row / (len(lines) - 1) - 0.5)
        shapes.append(_curve(line, lambda p, o=offset: _LEFT + (p.place + 0.5 + o) * step, scale, label, places, log))
    return (
        f'<figure><figcaption>{text(label)}</figcaption><svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{text(label)}, by strength">{"".join(shapes)}</svg></figure>'
    )


def keys(lines: Sequence[Curve]) -> str:
    """Return the legend: each feature's colour and mark."""
    parts = []
    for line in lines:
        ink = colour(line.number)
        parts.append(
            f'<span><svg viewBox="0 0 34 14" aria-hidden="true"><line x1="1" x2="33" y1="7" y2="7" stroke="{ink}" '
            f'stroke-width="2"/>{_mark(line.number, 17, 7, ink)}</svg>{text(line.name)}</span>'
        )
    return f"<p class=keys>{''.join(parts)}</p>"


def _curve(
    line: Curve, x: Callable[[Point], float], scale: _Scale, label: str, places: Sequence[str], log: bool
) -> str:
    ink = colour(line.number)
    points = [p for p in line.points if math.isfinite(p.value) and (p.value > 0 or not log)]
    joined = " ".join(f"{x(p):.1f},{scale.place(p.value):.1f}" for p in points if p.place >= line.apart)
    shapes = [f'<polyline points="{joined}" fill="none" stroke="{ink}" stroke-width="1.6" opacity=".8"/>']
    for p in points:
        said = f"{line.name}, {places[p.place]}: {short(p.value)}"
        whisker = ""
        if p.low is not None and p.high is not None and (p.low > 0 or not log):
            said += f" [{short(p.low)}, {short(p.high)}]"
            low, high = scale.place(p.low), scale.place(p.high)
            at = f'x1="{x(p):.1f}" x2="{x(p):.1f}" y1="{low:.1f}" y2="{high:.1f}"'
            whisker = f'<line {at} stroke="{ink}" stroke-width="1.4"/>'
        shapes.append(
            f"<g>{whisker}{_mark(line.number, x(p), scale.place(p.value), ink)}<title>{text(said)}</title></g>"
        )
    return "".join(shapes)


def _mark(number: int, x: float, y: float, ink: str) -> str:
    """Return a feature's mark: circle, square, diamond, triangle up, triangle down, and again hollow."""
    fill = ink if number % 10 < 5 else "var(--ground)"
    style = f'fill="{fill}" stroke="{ink}" stroke-width="1.5"'
    kind = number % 5
    if kind == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" {style}/>'
    corners = {
        1: ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        2: ((0, -4.4), (4.4, 0), (0, 4.4), (-4.4, 0)),
        3: ((0, -4.2), (4, 3.2), (-4, 3.2)),
        4: ((0, 4.2), (4, -3.2), (-4, -3.2)),
    }[kind]
    return f'<polygon points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}" {style}/>'


def _linear(values: Sequence[float]) -> _Scale:
    low, high = min(0.0, *values), max(values)
    if high <= low:
        high = low + 1.0
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    low, high = first * step, last * step
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return _Scale(ticks, lambda v: _y((v - low) / (high - low)))


def _logarithmic(values: Sequence[float]) -> _Scale:
    low, high = math.log10(min(values)), math.log10(max(values))
    steps = (1,) if high - low > 2.2 else (1, 2, 5)
    marks = [m * 10.0**e for e in range(math.floor(low) - 1, math.ceil(high) + 2) for m in steps]
    inside = [mark for mark in marks if low <= math.log10(mark) <= high]
    if len(inside) < 2:  # a scale needs two numbers to be read
        inside = [max(m for m in marks if math.log10(m) <= low), min(m for m in marks if math.log10(m) > high)]
    ends = [low, high, *map(math.log10, inside)]
    start, span = min(ends), max(ends) - min(ends)
    return _Scale(tuple(inside), lambda v: _y((math.log10(v) - start) / span))


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - min(1.0, max(0.0, share)) * (_HEIGHT - _BOTTOM - _TOP)
