"""Draw what ``run`` found: each figure against the strength, a line a feature.

python -m experiments.steering.plot outputs/steering
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.steering.run import FEATURES, estimate, names
from sae_lightning.reports.sweep_figures import legend, new_figure, styles

SHOWN = {
    "activation": "activation in the text, share of maximum",
    "words": "share of samples with a word of the concept",
    "perplexity": "perplexity to the unsteered model",
    "repetition": "share of repeated 3-grams",
}


def draw(axis: Any, steering: dict[str, Any], figure: str) -> None:
    """Draw one figure: every feature's points with their intervals, as is on the left."""
    places = names(steering)
    for row, (feature, (colour, marker)) in enumerate(zip(FEATURES, styles(len(FEATURES)), strict=True)):
        found = [estimate(steering, figure, feature, name) for name in places]
        x = [i + 0.1 * (row - (len(FEATURES) - 1) / 2) for i in range(len(places))]
        y = [one["value"] for one in found]
        for at, one in zip(x, found, strict=True):
            if one["low"] is not None:
                axis.plot([at, at], [one["low"], one["high"]], color=colour, linewidth=1.1)
        axis.plot(x[1:], y[1:], color=colour, linewidth=1.2, alpha=0.8)
        label = f"{feature} ({FEATURES[feature][1][0]})"
        axis.plot(x, y, color=colour, marker=marker, markersize=4.5, linestyle="none", label=label)
    axis.set_xticks(range(len(places)), places, fontsize=8)
    axis.set_title(SHOWN[figure], loc="left", fontsize=10)
    if figure == "perplexity":
        axis.set_yscale("log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    steering = json.loads((out / "dose" / "steering.json").read_text(encoding="utf-8"))
    figure, axes = new_figure(columns=2, rows=2, width=12, height=7)
    for axis, name in zip(axes, SHOWN, strict=True):
        draw(axis, steering, name)
    axes[2].set_xlabel("strength, times the feature's maximum")
    axes[3].set_xlabel("strength, times the feature's maximum")
    legend(axes[1], "feature")
    figure.savefig(out / "steering.png", dpi=85)


if __name__ == "__main__":
    main()
