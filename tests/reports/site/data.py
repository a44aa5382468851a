"""Reads a site's data files as a page does: each is a call with JSON in it."""

import json
from pathlib import Path
from typing import Any

_BEGIN, _END = "SAE.data(", ");\n"


def read_data(site: Path, name: str) -> Any:
    """Return what ``data/NAME.js`` holds."""
    text = (site / "data" / f"{name}.js").read_text(encoding="utf-8")
    assert text.startswith(_BEGIN)
    assert text.endswith(_END)
    return json.loads(text[len(_BEGIN) : -len(_END)])


def read_feature(site: Path, feature: int, per_file: int) -> tuple[dict[str, Any], list[str]]:
    """Return (a feature's data, the vocabulary its numbers are of)."""
    file = read_data(site, f"features/{feature // per_file:05d}")
    return file["features"][feature % per_file], file["vocabulary"]
