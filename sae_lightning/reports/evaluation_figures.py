"""Pictures of an evaluation as SVG inside the page: intervals as whiskers, bars, a histogram.

Only lines and shapes are drawn, their places in per cent: they fill whatever width there is, and words beside them stay
HTML, at a size that can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sae_lightning.reports.evaluation_data import Figure, short
from sae_lightning.reports.page import text

STYLE = """
.plot { display: grid; grid-template-columns: fit-content(40%) minmax(5rem, 1fr) auto; gap: .15rem .6rem;
  align-items: center; font-size: 13px; font-variant-numeric: tabular-nums;
  max-width: 46rem; }
.plot .name { overflow-wrap: anywhere; line-height: 1.2; } .plot .value { text-align: right; }
.plot svg { display: block; width: 100%; overflow: visible; }
.plot .scale { display: flex; justify-content: space-between; color: var(--quiet); font-size: 11px; grid-column: 2;
  border-top: 1px solid var(--line); }
.plot .word { color: var(--quiet); white-space: nowrap; }
.histogram { max-width: 40rem; } .histogram svg { display: block; width: 100%; }
.histogram .scale { display: flex; justify-content: space-between; color: var(--quiet); font-size: 11px;
  border-top: 1px solid var(--line); }
"""


@dataclass(frozen=True)
class Mark:
    """One line of a plot: a name, a figure, a word about how it stands to the others, and the number of its colour."""

    name: str
    figure: Figure
    word: str = ""
    colour: int = 0


def colour(i: int) -> str:
    """Return the colour of the i-th SAE, as the page's style has it."""
    return f"var(--c{i % 8})"


def whiskers(marks: Sequence[Mark], label: str, scale: tuple[float, float] | None = None) -> str:
    """Draw each mark as a dot on its 95 % interval, all on one scale: ``scale``, or what spans them and no more."""
    ends = [v for m in marks for v in (m.figure.low, m.figure.value, m.figure.high) if v is not None]
    if not ends:
        return ""
    low, high = scale or (min(ends), max(ends))
    nothing = low == high == 0
    pad = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
    if scale is None:
        # What is never below 0 gets no scale that goes there.
        low, high = low - pad if low < 0 or nothing else max(0.0, low - pad), high + pad

    def place(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    rows = []
    for mark in marks:
        shapes = ""
        found = mark.figure
        if found.low is not None and found.high is not None:
            shapes += (
                f'<line x1="{place(found.low)}" x2="{place(found.high)}" y1="8" y2="8" stroke="{colour(mark.colour)}" '
                'stroke-width="2"/>'
            )
            for end in (found.low, found.high):
                shapes += f'<line x1="{place(end)}" x2="{place(end)}" y1="4" y2="12" stroke="{colour(mark.colour)}"/>'
        if found.value is not None:
            fill = "var(--panel)" if mark.word.startswith("≈") else colour(mark.colour)
            shapes += (
                f'<circle cx="{place(found.value)}" cy="8" r="4" fill="{fill}" stroke="{colour(mark.colour)}" '
                'stroke-width="2"/>'
            )
        rows.append(_row(mark, shapes, label, 16, word=len(marks) > 1))
    # Zeros alone have no scale: any would be made up.
    ruler = "" if nothing else f"<span class=scale><span>{short(low)}</span><span>{short(high)}</span></span>"
    return f"<div class=plot>{''.join(rows)}{ruler}</div>"


def bars(marks: Sequence[Mark], label: str) -> str:
    """Draw each mark as a bar from 0, its interval on the bar's end."""
    ends = [v for m in marks for v in (m.figure.value, m.figure.high) if v is not None]
    top = max(ends, default=0.0)
    if top <= 0:
        return ""

    def place(value: float) -> str:
        return f"{100 * max(0.0, value) / top:.2f}%"

    rows = []
    for mark in marks:
        found = mark.figure
        if found.value is None:
            continue
        shapes = f'<rect width="{place(found.value)}" y="3" height="12" fill="{colour(mark.colour)}" opacity=".75"/>'
        if found.low is not None and found.high is not None:
            shapes += (
                f'<line x1="{place(found.low)}" x2="{place(found.high)}" y1="9" y2="9" stroke="var(--ink)" '
                'stroke-width="1.5"/>'
            )
        rows.append(_row(mark, shapes, label, 18))
    return f"<div class=plot>{''.join(rows)}</div>"


def histogram(lows: Sequence[float], highs: Sequence[float], counts: Sequence[float], label: str, i: int = 0) -> str:
    """Draw counts of bins with the edges ``lows`` and ``highs`` on one scale, in the colour of the i-th SAE."""
    if not counts or max(counts) <= 0:
        return ""
    first, last = min(lows), max(highs)
    height, span = 110, last - first
    shapes = "".join(
        f'<rect x="{100 * (a - first) / span:.2f}%" width="{94 * (b - a) / span:.2f}%" '
        f'y="{height * (1 - n / max(counts)):.1f}" height="{height * n / max(counts):.1f}" fill="{colour(i)}">'
        f"<title>{short(a)} to {short(b)}: {short(n)}</title></rect>"
        for a, b, n in zip(lows, highs, counts, strict=True)
        if n > 0
    )
    ticks = "".join(f"<span>{short(first + span * t / 4)}</span>" for t in range(5))
    return (
        f'<figure class=histogram><svg height="{height}" role="img" aria-label="{text(label)}">{shapes}</svg>'
        f"<div class=scale>{ticks}</div><figcaption class=quiet>{text(label)}; highest bar "
        f"{short(max(counts))}</figcaption></figure>"
    )


def _row(mark: Mark, shapes: str, label: str, height: int, word: bool = False) -> str:
    found = mark.figure
    said = f"{', '.join(part for part in (label, mark.name) if part)}: {short(found.value)} {found.interval}"
    after = f" <span class=word>{text(mark.word)}</span>" if word and mark.word else ""
    return (
        f"<span class=name>{text(mark.name)}{after}</span>"
        f'<svg height="{height}" role="img" aria-label="{text(said)}"><title>{text(said)}</title>{shapes}</svg>'
        f"<span class=value>{short(found.value) if mark.name else ''}</span>"
    )
