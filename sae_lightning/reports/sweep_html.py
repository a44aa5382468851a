"""The page of a sweep: one HTML file that needs nothing beside it, neither files nor a network."""

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_lightning.core.files import atomic_path
from sae_lightning.reports.summary import MEANING
from sae_lightning.reports.sweep_table import SweepTable
from sae_lightning.studies.scaling import Collection, Fit, Front, Refusal, preferred

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e21; max-width: 76rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p, li { max-width: 52rem; } .quiet { color: #5c6470; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 0 1 36rem; } figure.wide { flex-basis: 100%; max-width: 62rem; } img { max-width: 100%; }
.scroll { overflow: auto; max-height: 75vh; border: 1px solid #d9dde3; border-radius: 4px; margin: .8rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e7eaee; text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; } td.text { white-space: normal; min-width: 14rem; }
td.formula { white-space: normal; min-width: 11rem; max-width: 15rem; } th { white-space: normal; }
th { position: sticky; top: 0; background: #f3f5f8; font-weight: 600; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid #0072b2; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr.best td { background: #eef6ff; } input { font: inherit; padding: .2rem .5rem; width: 18rem; max-width: 100%; }
code { font-size: .92em; }
"""

# A click on a column's head sorts the rows by it, numbers as numbers, missing values last; a second click reverses.
_SCRIPT = """
document.querySelectorAll('table.sortable').forEach(table => {
  const body = table.tBodies[0];
  table.querySelectorAll('th button').forEach((button, column) => button.addEventListener('click', () => {
    const head = button.parentElement, down = head.getAttribute('aria-sort') === 'ascending';
    table.querySelectorAll('th').forEach(th => th.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === '' || y === '') return (x === '') - (y === '');
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
      return down ? -order : order;
    };
    [...body.rows].sort(compare).forEach(row => body.append(row));
  }));
});
document.getElementById('filter')?.addEventListener('input', event => {
  const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelector('#runs tbody').rows)
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
});
"""


def sweep_page(
    title: str,
    collection: Collection,
    table: SweepTable,
    fronts: Sequence[Front],
    laws: Sequence[Fit | Refusal],
    figures: Mapping[str, Path],
) -> str:
    """Return the page. figures: name -> PNG; names begin with ``front``, ``dead`` or ``law``.

    Every text that comes from a run (names, settings, reasons) is escaped.
    """
    n, left = len(collection.records), len(collection.missing)
    count = f"{n} trained SAE{'s' * (n != 1)}" + (f"; {left} without a result, listed at the end" if left else "")
    parts = [
        f"<h1>Sweep: {_text(title)}</h1><p class=quiet>{count}.</p>",
        "<h2>Pareto fronts</h2>",
        _pictures(figures, "front"),
        _front_table(fronts),
        "<h2>Dead features</h2>",
        _pictures(figures, "dead", wide=True) or "<p>No run has a learning rate and a share of dead features.</p>",
        "<h2>Scaling laws</h2>",
        _laws(laws, figures),
        "<h2>All runs</h2>",
        "<p><label>Show rows with <input id=filter type=search></label> "
        "<span class=quiet>Click a column's head to sort. 1 in an <code>on_</code> column: on that front.</span></p>",
        _runs(table),
        _missing(collection),
    ]
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>Sweep: {_text(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def write_page(path: Path, page: str) -> None:
    """Write the page, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _text(value: Any) -> str:
    return html.escape(str(value))


def _number(value: float) -> str:
    if abs(value) < 1e8 and value == int(value):
        return f"{int(value)}"
    return f"{value:.4g}"


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], attributes: str = "", marks: Sequence[str] = ()
) -> str:
    """Return a table of cells that are HTML already: ``<td ...>``."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    marked = marks or [""] * len(rows)
    body = "\n".join(f"<tr{mark}>{''.join(row)}</tr>" for row, mark in zip(rows, marked, strict=True))
    return (
        f"<div class=scroll><table {attributes}><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class=number data-value="{value!r}">{_number(value)}</td>'
    return f"<td>{_text(value)}</td>"


def _pictures(figures: Mapping[str, Path], prefix: str, *, wide: bool = False) -> str:
    pictures = [
        f'<figure{" class=wide" * wide}><img alt="{_text(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></figure>'
        for name, path in figures.items()
        if name.startswith(prefix)
    ]
    return f"<div class=figures>{''.join(pictures)}</div>" if pictures else ""


def _front_table(fronts: Sequence[Front]) -> str:
    if not fronts:
        return "<p>No run has both objectives of a front.</p>"
    rows = [
        [
            _cell(", ".join(item.objectives)),
            _cell(item.subject),
            _cell(len(item.members)),
            _cell(item.area),
            _cell(", ".join(f"{o} {_number(r)}" for o, r in zip(item.objectives, item.reference, strict=True))),
        ]
        for item in fronts
    ]
    note = "" if any("delta_ce" in item.objectives for item in fronts) else _NO_DELTA_CE
    return (
        "<p>A run is on the front when no other of its row is as good in both and better in one. Hypervolume: the area "
        "that a front dominates up to the reference point, the worst value of all runs here (of fvu: 1, the mean "
        f"predictor); larger is better.{note}</p>"
        + _table(["objectives", "runs of", "on the front", "hypervolume", "reference point"], rows)
    )


_NO_DELTA_CE = " There is no front of (l0, delta_ce): no run measured delta_ce, which needs a language model."


def _laws(laws: Sequence[Fit | Refusal], figures: Mapping[str, Path]) -> str:
    fits = [(i, law) for i, law in enumerate(laws) if isinstance(law, Fit)]
    parts = [
        "<p>L is the FVU on held-out rows, fitted in log space with a loss that is linear for outliers. L(N) and "
        "L(N, k) take the best of the runs with equal N, k and seed (where the architecture fixes no k: each width's "
        "front of L0 and L); L(C) takes the lower envelope over training flops (dense count, the language model's not "
        "in it). Brackets: 95 % intervals from a bootstrap over runs, widened for few points. Where two forms of a law "
        "were fitted, the shaded one has the lower AICc.</p>"
    ]
    if fits:
        rows = [
            [
                f"<td class=formula><code>{_text(fit.law.formula)}</code></td>",
                _cell(fit.subject),
                _cell(fit.k),
                _cell(fit.n),
                f"<td>{'<br>'.join(_parameters(fit))}</td>",
                _cell(float(np.sqrt((fit.residuals**2).mean()))),
                f"<td class=text>{_text('; '.join(fit.flags))}</td>",
            ]
            for _, fit in fits
        ]
        columns = ["law", "runs of", "k", "points", "parameters and 95 % intervals", "rms residual of ln L", "mind"]
        best = preferred(laws)
        forms = Counter(_runs_of(fit) for _, fit in fits)
        marks = [" class=best" * (i in best and forms[_runs_of(fit)] > 1) for i, fit in fits]
        parts.append(_table(columns, rows, marks=marks))
        parts.append(_pictures(figures, "law"))
    refused: dict[tuple[str, str, str], list[str]] = {}
    for law in laws:
        if isinstance(law, Refusal):
            refused.setdefault((law.law.formula, law.subject, law.reason), []).append(
                "" if law.k is None else _number(law.k)
            )
    if refused:
        rows = [
            [f"<td><code>{_text(formula)}</code></td>", _cell(subject), _cell(", ".join(ks)), _cell(reason)]
            for (formula, subject, reason), ks in refused.items()
        ]
        parts.append("<h3>Not fitted</h3>" + _table(["law", "runs of", "k", "why"], rows))
    return "\n".join(parts)


def _runs_of(fit: Fit) -> tuple[str, str, float | None]:
    return fit.law.name, fit.subject, fit.k


def _parameters(fit: Fit) -> list[str]:
    return [
        f"{_text(name)} = {value:.4g} [{low:.4g}, {high:.4g}]"
        for name, value, low, high in zip(fit.law.parameters, fit.estimate, fit.lower, fit.upper, strict=True)
    ]


def _runs(table: SweepTable) -> str:
    heads = [f'<button title="{_text(MEANING.get(name, ""))}">{_text(name)}</button>' for name in table.columns]
    return _table(heads, [[_cell(row[c]) for c in table.columns] for row in table.rows], 'class=sortable id="runs"')


def _missing(collection: Collection) -> str:
    if not collection.missing:
        return ""
    rows = [[_cell(m.run_dir), _cell(m.lane), _cell(m.kind), _cell(m.reason)] for m in collection.missing]
    return f"<h2>Without a result: {len(rows)}</h2>" + _table(["run_dir", "lane", "what", "why"], rows)
