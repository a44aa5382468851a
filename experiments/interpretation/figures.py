"""Table and picture of interpretations: ``python -m experiments.interpretation.figures NAME=DIR ... --out FILE``."""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

GROUPS = {
    "features": ("features", "#0072b2"),
    "features_shuffled": ("features, shuffled", "#8cccf2"),
    "neurons": ("neurons", "#d55e00"),
    "neurons_shuffled": ("neurons, shuffled", "#f0b48c"),
}
APART = ("features-shuffled", "neurons-shuffled", "features-neurons")
# Score, and what chance gives.
DRAWN = (("detection_auc", 0.5), ("fuzzing_auc", 0.5), ("rubric_expected_grade", None))


def markdown(said: dict[str, Any]) -> str:
    """Return every score with its interval as a table."""
    scores: dict[str, dict[str, Any]] = {}
    for name, found in said["result"]["estimates"].items():
        score, _, group = name.partition("/")
        scores.setdefault(score, {})[group] = found
    columns = [*GROUPS, *APART]
    lines = ["| score | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for score, groups in scores.items():
        lines.append(f"| {score} | " + " | ".join(_cell(groups.get(column)) for column in columns) + " |")
    return "\n".join(lines)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return ""
    interval = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
    return f"{found['value']:.3f}{interval}"


def draw(runs: dict[str, dict[str, Any]], out: Path) -> None:
    """Draw the scores of all runs by group, each a point on its 95 % interval."""
    figure, axes = plt.subplots(1, len(DRAWN), figsize=(3.6 * len(DRAWN), 1.2 + 1.1 * len(runs)), sharey=True)
    for axis, (score, chance) in zip(axes, DRAWN, strict=True):
        for row, said in enumerate(runs.values()):
            for i, (group, (_, colour)) in enumerate(GROUPS.items()):
                found = said["result"]["estimates"].get(f"{score}/{group}")
                if found is None or found["value"] is None:
                    continue
                y = row + 0.18 * (i - 1.5)
                if found["low"] is not None:
                    axis.plot([found["low"], found["high"]], [y, y], color=colour, lw=2)
                axis.plot(found["value"], y, "o", color=colour)
        if chance is not None:
            axis.axvline(chance, color="#777777", ls=":", lw=1)
        axis.set_title(score.replace("_", " "), fontsize=10)
        axis.set_yticks(range(len(runs)), list(runs))
        axis.grid(axis="x", color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(len(runs) - 0.5, -0.5)
    marks = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in GROUPS.values()]
    figure.legend(handles=marks, ncol=4, loc="lower center", frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(out, dpi=130)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=DIR", help="folders that interpret wrote")
    parser.add_argument("--out", type=Path, default=Path("interpretation.png"))
    arguments = parser.parse_args()
    runs = {}
    for one in arguments.runs:
        name, _, folder = one.partition("=")
        runs[name] = json.loads((Path(folder) / "interpretation.json").read_text(encoding="utf-8"))
        print(f"\n{name}: {runs[name]['explainer']}\n\n{markdown(runs[name])}")
    draw(runs, arguments.out)


if __name__ == "__main__":
    main()
