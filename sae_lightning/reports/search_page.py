"""The page of a search: one file, with links into the report of features where there is one."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.page import cell, head, page, table, text, write_page
from sae_lightning.reports.search_columns import FIGURES, TITLES, WORDY, cell_text, feature_text, meaning
from sae_lightning.reports.site.escape import visible


def write_search_html(path: Path, found: dict[str, Any]) -> None:
    """Write the page of what ``search.json`` holds. Links are relative, so that both folders may move together."""
    write_page(path, search_page(found, path.resolve().parent))


def search_page(found: dict[str, Any], folder: Path) -> str:
    """Return the page for a folder. Texts (prompts, tokens, explanations, names) are escaped, and shown as they are."""
    said = found["tables"]["features"]
    way = found["way"]
    columns = [column for column in said["columns"] if column != "page"]
    rows = [
        [
            _cell(column, value, found["report"], folder, row, said["columns"])
            for column, value in zip(said["columns"], row, strict=True)
            if column != "page"
        ]
        for row in said["rows"]
    ]
    heads = [head(column, meaning(way, column)) for column in columns]
    parts = [
        f"<h1>{text(TITLES[way].capitalize())}</h1>",
        f"<p>{text(visible(said['caption']))}</p>",
        f"<p class=quiet>{text(visible(found['sae']['name']))}"
        + (f", with the store {text(visible(found['store']))}" if found["store"] else "")
        + f"; {text(str(found['created']).replace('T', ' ')[:16])}, {found['seconds']:.1f} s.</p>",
        table(heads, rows, "class=sortable") if rows else "<p>Nothing was found.</p>",
        _figures(found),
        *(f"<p>{text(visible(note))}</p>" for note in found["notes"]),
        "<h2>What was asked</h2>",
        _asked(found["asked"]),
    ]
    return page(f"Search: {visible(said['caption'])}", parts)


def _cell(column: str, value: Any, report: str | None, folder: Path, row: list[Any], columns: list[str]) -> str:
    if column == "feature":
        number = text(feature_text(value))
        if report is not None and row[columns.index("page")] is not None:
            number = f'<a href="{text(_relative(report, folder))}?f={number}">{number}</a>'
        return f'<td class=number data-value="{text(feature_text(value))}">{number}</td>'
    if isinstance(value, str):
        return f"<td{' class=text' if column in WORDY else ''}>{text(cell_text(column, value))}</td>"
    return cell(value)


def _relative(address: str, folder: Path) -> str:
    """Return a file's address as seen from a folder."""
    return quote(os.path.relpath(unquote(urlsplit(address).path), folder))


def _figures(found: dict[str, Any]) -> str:
    known = {name: one for name, one in found["estimates"].items() if one["value"] is not None}
    if not known:
        return ""
    rows = []
    for name, one in known.items():
        limits = "" if one["low"] is None else f"[{short(one['low'])}, {short(one['high'])}]"
        rows.append(
            [
                f"<td>{text(name)}</td>",
                cell(one["value"]),
                f"<td>{text(limits)}</td>",
                cell(one["tokens"]),
                f"<td class=text>{text(FIGURES.get(name, ''))}</td>",
            ]
        )
    return "<h2>How far first order goes</h2>" + table(
        ["figure", "value", "95 % interval", "features", "meaning"], rows
    )


def _asked(asked: dict[str, Any]) -> str:
    rows = []
    for name, value in asked.items():
        values = value if isinstance(value, list) else [value]
        shown = "<br>".join(text(visible(one)) for one in values[:100])
        if len(values) > 100:
            shown += f"<br>and {len(values) - 100} more"
        rows.append([f"<td>{text(name)}</td>", f"<td class=text>{shown}</td>"])
    return table(["setting", "value"], rows)
