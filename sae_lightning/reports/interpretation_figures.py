"""Pictures of an interpretation as SVG inside the page: what judges said at each level of activation."""

from collections.abc import Sequence
from dataclasses import dataclass

from sae_lightning.reports.evaluation_data import Figure, short
from sae_lightning.reports.page import text

_WIDTH, _HEIGHT = 420, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 26

STYLE = """
.curves svg { display: block; width: 100%; max-width: 34rem; height: auto; }
.curves text { fill: var(--quiet); font: 11px system-ui, sans-serif; }
.curves .axis { stroke: var(--line); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: 13px; margin: .3rem 0; }
.legend span::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 50%;
  background: var(--dot); margin-right: .35em; vertical-align: -1px; }
"""


@dataclass(frozen=True)
class Curve:
    """One group's figures by level. colour: number of its colour. dashed: of a baseline."""

    name: str
    levels: dict[int, Figure]
    colour: int
    dashed: bool = False


def legend(curves: Sequence[Curve]) -> str:
    """Return what the colours mean."""
    parts = [f'<span style="--dot:var(--c{one.colour})">{text(one.name)}</span>' for one in curves]
    return f"<div class=legend>{''.join(parts)}</div>"


def level_curves(curves: Sequence[Curve], top: float, label: str) -> str:
    """Draw every group's mean by level, weakest left, its 95 % interval as a line; silent stretches left of all.

    top: the end of the scale, which begins at 0.
    """
    levels = sorted({level for one in curves for level in one.levels})
    if not levels:
        return ""
    step = (_WIDTH - _LEFT - _RIGHT) / len(levels)
    places = {level: _LEFT + (i + 0.5) * step for i, level in enumerate(levels)}

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(max(value / top, 0.0), 1.0))

    shapes = []
    for i in range(5):
        value = top * i / 4
        shapes.append(f'<line class=axis x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        shapes.append(f'<text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for level, place in places.items():
        name = "silent" if level < 0 else f"level {level + 1}"
        shapes.append(f'<text x="{place:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{name}</text>')
    for number, one in enumerate(curves):
        shift = (number - (len(curves) - 1) / 2) * min(9.0, step / (len(curves) + 1))
        shapes.append(_curve(one, {level: place + shift for level, place in places.items()}, y))
    return (
        f'<figure class=curves><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(label)}">'
        f"{''.join(shapes)}</svg><figcaption class=quiet>{text(label)}</figcaption></figure>"
    )


def _curve(one: Curve, places: dict[int, float], y) -> str:
    colour = f"var(--c{one.colour})"
    known = [(level, found) for level, found in sorted(one.levels.items()) if found.value is not None]
    joined = [(level, found) for level, found in known if level >= 0]
    shapes = ""
    if len(joined) > 1:
        points = " ".join(f"{places[level]:.1f},{y(found.value):.1f}" for level, found in joined)
        dash = ' stroke-dasharray="4 3"' if one.dashed else ""
        shapes += f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'
    for level, found in known:
        at = f"{places[level]:.1f}"
        if found.low is not None and found.high is not None:
            ends = f'y1="{y(found.low):.1f}" y2="{y(found.high):.1f}"'
            shapes += f'<line x1="{at}" x2="{at}" {ends} stroke="{colour}" stroke-width="1.5" opacity=".6"/>'
        fill = "var(--ground)" if one.dashed else colour
        said = f"{one.name}: {short(found.value)} {found.interval}, {found.tokens:,} units"
        shapes += (
            f'<circle cx="{at}" cy="{y(found.value):.1f}" r="3.5" fill="{fill}" stroke="{colour}" stroke-width="1.5">'
            f"<title>{text(said)}</title></circle>"
        )
    return shapes
