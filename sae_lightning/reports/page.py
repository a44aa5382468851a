"""What every page is made of: one HTML file that needs nothing beside it, neither files nor a network."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lightning.core.files import atomic_path

# Okabe and Ito's colours, which people with any colour vision tell apart; two are lighter on a dark ground.
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --quiet: #5c6470; --ground: #fff; --panel: #f6f8fa; --line: #d9dde3;
  --head: #eef1f5; --best: #e6f2fb; --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b5578f; --c4: #3a9ad9;
  --c5: #b97a00; --c6: #555; --c7: #8a63d2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --quiet: #9aa3af; --ground: #15181c; --panel: #1d2126;
  --line: #353b43; --head: #262b32; --best: #17344a; --c0: #4aa8e0; --c1: #f08a3c; --c2: #2fc79a; --c3: #dd86ba;
  --c4: #8cccf2; --c5: #e6b13d; --c6: #bbb; --c7: #b093ee; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 76rem;
  margin: 2rem auto; padding: 0 1.2rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 52rem; } .quiet { color: var(--quiet); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 0 1 36rem; } figure.wide { flex-basis: 100%; max-width: 62rem; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
.scroll { overflow: auto; max-height: 75vh; border: 1px solid var(--line); border-radius: 4px; margin: .8rem 0;
  width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
td.number, th.number { text-align: right; } td.text { white-space: normal; min-width: 14rem; }
td.formula { white-space: normal; min-width: 11rem; max-width: 15rem; }
th { background: var(--head); font-weight: 600; white-space: normal; } thead th { position: sticky; top: 0; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--c0); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr.best td { background: var(--best); }
input { font: inherit; padding: .2rem .5rem; width: 18rem; max-width: 100%; }
code { font-size: .92em; }
@media print { :root { color-scheme: light; } body { margin: 0; max-width: none; font-size: 11px; }
  .scroll { max-height: none; overflow: visible; border: 0; } table { font-size: 9px; } th, td { white-space: normal; }
  thead th { position: static; } h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""

# A click on a column's head sorts the rows by it, numbers as numbers, missing values last; a second click reverses.
SCRIPT = """
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


def page(title: str, parts: Sequence[str], style: str = "") -> str:
    """Return a whole page. parts: HTML of the body, empty ones left out; style: rules of this page alone."""
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{text(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def write_page(path: Path, page: str) -> None:
    """Write the page, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def text(value: Any) -> str:
    """Return a value as text that HTML takes as it is, in an attribute too."""
    return html.escape(str(value))


def number(value: float) -> str:
    """Return four digits of a number, all of an integer's."""
    if abs(value) < 1e8 and value == int(value):
        return f"{int(value)}"
    return f"{value:.4g}"


def cell(value: Any) -> str:
    """Return a table's cell: numbers to the right, with all digits to sort by; None empty."""
    if value is None:
        return "<td></td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class=number data-value="{value!r}">{number(value)}</td>'
    return f"<td>{text(value)}</td>"


def head(column: str, meaning: str = "") -> str:
    """Return what a sortable column's head holds: a button; the meaning shows when pointed at."""
    title = f' title="{text(meaning)}"' if meaning else ""
    return f"<button{title}>{text(column)}</button>"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], attributes: str = "", marks: Sequence[str] = ()
) -> str:
    """Return a table of cells that are HTML already: ``<td ...>``. marks: attributes of each row."""
    numeric = [any(row[i].startswith("<td class=number") for row in rows) for i in range(len(columns))]
    heads = "".join(f"<th{' class=number' * n}>{column}</th>" for column, n in zip(columns, numeric, strict=True))
    marked = marks or [""] * len(rows)
    body = "\n".join(f"<tr{mark}>{''.join(row)}</tr>" for row, mark in zip(rows, marked, strict=True))
    return (
        f"<div class=scroll><table {attributes}><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )
