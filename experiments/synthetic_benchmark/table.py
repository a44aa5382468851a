"""Score what ``run`` has trained, by one scorer, and print the tables of README.md.

    python -m experiments.synthetic_benchmark.table --runs runs --write

Every SAE, ours and sae-lens's, is read from its own files by ``sae.formats`` (``make test-interop`` holds that to what
its library computes) and asked by ``GroundTruthStudy`` and ``SparsityStudy`` about the same 262,144 held-out samples.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.banks import table
from experiments.synthetic_benchmark.samples import model
from sae_lightning.activations.synthetic import PlantedModel
from sae_lightning.sae import formats
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation import GroundTruthStudy, SparsityStudy

BLOCKS = 256
BEGIN, END = "<!-- results -->", "<!-- /results -->"
FIGURES = ("f1", "precision", "recall", "mcc", "mmcs", "uniqueness", "explained_variance", "l0", "dead", "shrinkage")
COLUMNS = ("entry", "seeds", "f1", "mcc", "uniqueness", "explained_variance", "l0", "dead", "minutes")


def score(folder: Path, truth: PlantedModel) -> dict[str, Any]:
    """Return the figures of one trained entry; kept beside it in scores.json."""
    kept = folder / "scores.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    subject = Subject(formats.read(folder), windows=range(BLOCKS), truth=truth)
    found = GroundTruthStudy().run(subject).values | SparsityStudy().run(subject).values
    facts = json.loads((folder / ("facts.json" if (folder / "facts.json").is_file() else "metrics.json")).read_text())
    entry, seed = re.fullmatch(r"(.*)-s(\d+)", folder.name).groups()  # pyright: ignore[reportOptionalMemberAccess]
    scores = {"entry": entry, "seed": int(seed), **{name: found[name] for name in FIGURES}}
    scores["minutes"] = facts["seconds"] / 60
    kept.write_text(json.dumps(scores))
    return scores


def summary(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row an entry: means over its seeds, with the sample standard deviation where there are several."""
    by_entry: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in scores:
        by_entry[one["entry"]].append(one)
    rows = []
    for entry, found in by_entry.items():
        row: dict[str, Any] = {"entry": entry, "seeds": len(found)}
        for name in COLUMNS[2:]:
            values = np.array([one[name] for one in found])
            digits = {"l0": 1, "minutes": 1}.get(name, 3)
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 and name != "minutes" else ""
            row[name] = f"{values.mean():.{digits}f}{spread}"
        rows.append({**row, "order": float(np.mean([one["f1"] for one in found]))})
    return sorted(rows, key=lambda row: -row["order"])


def draw(scores: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw F1 against MCC, one point a run."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    for number, entry in enumerate(sorted({one["entry"] for one in scores})):
        points = [(one["mcc"], one["f1"]) for one in scores if one["entry"] == entry]
        marker = "o" if entry.startswith("ours") else "x"
        axes.scatter(*zip(*points, strict=True), label=entry, marker=marker, color=f"C{number % 10}")
    axes.set_xlabel("MCC of decoder directions")
    axes.set_ylabel("F1 of firings")
    axes.set_title("Synthetic benchmark: one point a seed; up and right is better")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and draw f1_mcc.png")
    a = parser.parse_args()
    folders = sorted(f for f in a.runs.iterdir() if (f / "metrics.json").is_file() or (f / "facts.json").is_file())
    truth = model()
    scores = [score(folder, truth) for folder in folders]
    every = sorted(scores, key=lambda one: (one["entry"], one["seed"]))
    text = f"{table(summary(scores), COLUMNS)}\n\nEvery run:\n\n{table(every, ('entry', 'seed', *FIGURES))}"
    print(text)
    if a.write:
        here = Path(__file__).parent
        draw(scores, here / "f1_mcc.png")
        readme = (here / "README.md").read_text(encoding="utf-8")
        before, rest = readme.split(BEGIN)
        (here / "README.md").write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
