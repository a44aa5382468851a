"""A study's tables as the site shows them: numbers to sort by, features as links, text with its context."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.evaluation_sections import MOST_ROWS
from sae_lightning.reports.site.headings import column_meaning
from sae_lightning.studies.evaluation.compare import NO_INTERVAL, SAME
from sae_lightning.studies.study import Cell

#: Columns whose whole numbers are features of the SAE that is read.
_FEATURES = ("feature", "neighbour", "partner", "around")
# Columns of text that is shown to the letter.
_EXACT = ("before", "token", "piece", "after", "concept", "text", "tokens")
_NUMBERS = re.compile(r"\d+(?:[ ,;]+\d+)*(?: ?(?:\.\.\.|…))?")


@dataclass(frozen=True)
class Part:
    """A piece of a cell: text, where it leads to (None: nowhere), whether it is what the row is about."""

    text: str
    href: str | None = None
    mark: bool = False


@dataclass(frozen=True)
class ShownCell:
    """A cell: its parts; ``number``: all digits to sort by, for what is set to the right; its class."""

    parts: tuple[Part, ...]
    number: str | None = None
    kind: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table: caption, (heading, meaning, set to the right) of each column, rows, which of them are shaded."""

    caption: str
    heads: tuple[tuple[str, str, bool], ...]
    rows: tuple[tuple[ShownCell, ...], ...]
    marks: tuple[bool, ...]
    total: int

    @property
    def cut(self) -> str:
        """What is said of rows that are left out."""
        more = f"The first {len(self.rows):,} of {self.total:,} rows; the analysis's JSON has all."
        return more if self.total > len(self.rows) else ""


def shown_table(
    name: str, found: Mapping[str, Any], folders: Mapping[str, str] | None = None, study: str = ""
) -> ShownTable:
    """Return one table of a result (``Result.to_json``'s form).

    folders: on a page of several SAEs, each one's folder, where features lead to; whose they are is said by the columns
    (``_owners``). None: they are the page's own SAE's. study: whose table it is, which says what its columns mean.
    """
    columns: list[str] = list(found["columns"])
    rows: list[Sequence[Cell]] = found["rows"]
    verdict = columns.index("verdict") if "verdict" in columns else None
    kept = rows[:MOST_ROWS]
    around, owners = _around(columns), _owners(name, columns, folders)
    cells = [tuple(_cells(columns, row, around, owners | _owner_in(columns, row, folders))) for row in kept]
    heads = []
    for place, column in enumerate(columns):
        if around and place in (around - 1, around + 1):
            continue
        at = len(heads)
        numeric = any(row[at].number is not None for row in cells)
        heads.append(("in its text" if place == around else column, column_meaning(study, column), numeric))
    return ShownTable(
        caption=str(found.get("caption") or name),
        heads=tuple(heads),
        rows=tuple(cells),
        marks=tuple(verdict is not None and row[verdict] not in (SAME, NO_INTERVAL) for row in kept),
        total=len(rows),
    )


def _around(columns: Sequence[str]) -> int | None:
    """Return the place of a column that stands between ``before`` and ``after``."""
    for place in range(1, len(columns) - 1):
        if columns[place - 1] == "before" and columns[place + 1] == "after":
            return place
    return None


def _cells(
    columns: Sequence[str], row: Sequence[Cell], around: int | None, owners: Mapping[str, str]
) -> Iterator[ShownCell]:
    for place, (column, value) in enumerate(zip(columns, row, strict=True)):
        if around and place in (around - 1, around + 1):
            continue
        if around and place == around:
            before, after = (str(row[i] or "") for i in (around - 1, around + 1))
            yield ShownCell((Part(before), Part(str(value or ""), mark=True), Part(after)), kind="exact long")
        else:
            yield _cell(column, value, owners.get(column))


def _owner_in(columns: Sequence[str], row: Sequence[Cell], folders: Mapping[str, str] | None) -> dict[str, str]:
    """Return whose feature a row's ``feature`` is, where a column ``sae`` says so."""
    if folders is None or "sae" not in columns:
        return {}
    folder = folders.get(str(row[columns.index("sae")]))
    return {} if folder is None else {"feature": f"{folder}/"}


def _owners(name: str, columns: Sequence[str], folders: Mapping[str, str] | None) -> dict[str, str]:
    """Return the folder, with its slash, of the SAE that each column's features are of.

    A table that is named ``... A -> B`` has columns ``narrow``, of A, and ``wide``, of B; ``around`` is of the first
    SAE. On the page of one SAE the folder is empty.
    """
    if folders is None:
        return dict.fromkeys((*_FEATURES, "features", "cluster"), "")
    found = {}
    for sae, folder in folders.items():
        found |= dict.fromkeys((sae, f"feature of {sae}", f"features of {sae}"), f"{folder}/")
    if {"narrow", "wide"} <= set(columns):
        for a, folder in folders.items():
            for b, other in folders.items():
                if name.endswith(f"{a} -> {b}"):
                    found |= {"narrow": f"{folder}/", "wide": f"{other}/"}
    if "around" in columns:
        found["around"] = f"{next(iter(folders.values()))}/"
    return found


def _cell(column: str, value: Cell, folder: str | None) -> ShownCell:
    if value is None or value == "":
        return ShownCell((Part(""),))
    if isinstance(value, bool):
        return ShownCell((Part("yes" if value else "no"),))
    if isinstance(value, int | float):
        href = None
        if folder is not None and isinstance(value, int) and value >= 0:
            href = f"features.html?q=cluster%3D{value}" if column == "cluster" else feature_link(value, folder)
            href = None if column == "features" else href
        plain = str(value) if href else short(value)
        return ShownCell((Part(plain, href),), number=repr(value), kind="number")
    if folder is not None and _NUMBERS.fullmatch(value):
        return ShownCell(tuple(_links(value, folder)), kind="long")
    return ShownCell((Part(value),), kind="exact" if column in _EXACT else "long" if len(value) > 40 else "")


def _links(value: str, folder: str) -> Iterator[Part]:
    for piece in re.split(r"(\d+)", value):
        if piece:
            yield Part(piece, feature_link(int(piece), folder) if piece.isdigit() else None)


def feature_link(feature: int, folder: str = "") -> str:
    """Return the address of a feature's page. folder: that of its SAE, with a slash, or empty."""
    return f"{folder}feature.html?f={feature}"
