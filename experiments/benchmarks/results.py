"""Where results are kept: one JSON line each, written as soon as it is there, so that a stopped benchmark goes on."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.process import MeasuringFailed


class Results:
    """The lines of one file. ``key``: the entries of a line that tell it from the others."""

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path = path
        self.key = tuple(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def find(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the line with these entries, or None."""
        return next((line for line in self.lines if all(line.get(k) == wanted[k] for k in self.key)), None)

    def failed(self, entries: Mapping[str, Any]) -> bool:
        """Return whether the same was tried in another round and did not run."""
        same = [name for name in self.key if name != "round"]
        return any("error" in line and all(line.get(k) == entries[k] for k in same) for line in self.lines)

    def measure(self, entries: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the line of ``entries``, by ``run`` unless it is there; a failure becomes a line with ``error``."""
        found = self.find(entries)
        if found is not None:
            return found
        try:
            line = {**run(), **entries}
        except MeasuringFailed as failure:
            line = {**entries, "error": str(failure)}
        print(_short(line), file=sys.stderr, flush=True)
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line


def _short(line: Mapping[str, Any]) -> str:
    shown = (
        "peer",
        "model",
        "what",
        "d_sae",
        "batch",
        "k",
        "round",
        "seconds",
        "activations_per_s",
        "tokens_per_s",
        "error",
    )
    return "  ".join(f"{name}={line[name]}" for name in shown if name in line)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; a cell of None is a dash."""
    cells = [[("-" if cell is None else str(cell)) for cell in row] for row in rows]
    if any(len(row) != len(columns) for row in cells):
        raise ValueError(f"a row has not the {len(columns)} cells of the header")
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
