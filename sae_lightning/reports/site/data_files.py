"""Data as scripts: a page opened from disk may not fetch files, but it may run them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_lightning.reports.site.escape import script_json


def write_data(folder: Path, name: str, value: Any) -> None:
    """Write ``value`` as ``data/NAME.js``, which hands it to the page that asked for it."""
    path = folder / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"SAE.data({script_json(value)});\n", encoding="utf-8")


def numbered(kind: str, number: int) -> str:
    """Return the name of one of many files of a kind."""
    return f"{kind}/{number:05d}"


def rounded(value: float) -> float | int | None:
    """Return four digits of a number, which is what is shown; integers whole; None for what is none."""
    if not np.isfinite(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def column(values: NDArray) -> list[float | int | None]:
    """Return an array as JSON takes it: integers whole, other numbers with four digits, None for NaN."""
    if np.issubdtype(values.dtype, np.integer):
        return values.tolist()
    return [rounded(value) for value in values.tolist()]


class Vocabulary:
    """Texts that occur again and again, each written once: ``vocabulary[text]`` is a text's number."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        for text in texts:
            self[text]

    def __getitem__(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return number
