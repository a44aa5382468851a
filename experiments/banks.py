"""What the experiments share: one bank of lanes through the command line, and its records."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_bank(run_dir: Path, lanes: Sequence[Mapping[str, Any]], settings: Sequence[str]) -> list[dict[str, Any]]:
    """Train the lanes as ``python -m sae_lightning.train bank=[...]`` in ``run_dir``; return their records.

    A finished bank is read instead of trained, a stopped one goes on.
    """
    if not (run_dir / "metrics.json").is_file():
        if (run_dir / "config.yaml").is_file():
            arguments = [f"resume={run_dir}"]
        else:
            bank = ", ".join("{" + ", ".join(f"{k}: {json.dumps(v)}" for k, v in lane.items()) + "}" for lane in lanes)
            arguments = [*settings, f"paths.run_dir={run_dir}", f"bank=[{bank}]"]
        subprocess.run([sys.executable, "-m", "sae_lightning.train", *arguments], check=True)
    return [json.loads(line) for line in (run_dir / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
