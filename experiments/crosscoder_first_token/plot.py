"""Draw what ``run`` found: fvu and gradients by what was trained on, and the sweep of the norm at the start.

python -m experiments.crosscoder_first_token.plot outputs/crosscoder_first_token
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.crosscoder_first_token.run import KINDS, MASKS, NORMS, SWEPT, folder_of, gradient_norms

COLOURS = ("#d55e00", "#0072b2", "#009e73")


def gradients(axis: Any, out: Path, records: list[dict[str, Any]]) -> None:
    """Draw the gradient norm of L1 at every step, before clipping, over its median."""
    for colour, mask in zip(COLOURS, MASKS, strict=True):
        seed = min(row["seed"] for row in records)
        norms = gradient_norms(folder_of(out, mask) / "lanes" / f"l1-s{seed}")
        axis.plot(norms / np.median(norms), color=colour, label=mask, linewidth=0.9)
    axis.set(yscale="log", xlabel="step", ylabel="gradient norm / its median", title="L1, before clipping")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)


def bars(axis: Any, records: list[dict[str, Any]], column: str) -> None:
    """Draw one figure of every kind of training, by what was trained on (colours as beside); dots are seeds."""
    for number, (colour, mask) in enumerate(zip(COLOURS, MASKS, strict=True)):
        for place, kind in enumerate(KINDS):
            found = [row[column] for row in records if row["trained on"] == mask and row["lane"] == kind]
            at = place + 0.27 * number
            axis.bar(at, np.mean(found), 0.25, color=colour)
            axis.plot([at] * len(found), found, "k.", markersize=4)
    axis.set_xticks(np.arange(len(KINDS)) + 0.27, list(KINDS), fontsize=8)
    axis.set(title=f"{column}, by kind of training and tokens trained on")
    axis.grid(alpha=0.3, axis="y")


def sweep(axis: Any, records: list[dict[str, Any]], column: str) -> None:
    """Draw a figure of L1 against the norm that decoder rows start with."""
    for colour, mask in zip(COLOURS, MASKS, strict=True):
        if mask not in SWEPT:
            continue
        points = [
            [row[column] for row in records if row["trained on"] == mask and row["lane"] == f"init{norm:g}"]
            for norm in NORMS
        ]
        axis.plot(NORMS, [np.mean(found) for found in points], color=colour, label=mask)
        for norm, found in zip(NORMS, points, strict=True):
            axis.plot([norm] * len(found), found, ".", color=colour)
    axis.axvline(0.12, linestyle=":", color="grey")
    axis.set(xscale="log", xlabel="decoder norm at the start", title=column)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    records = json.loads((out / "records.json").read_text(encoding="utf-8"))
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), constrained_layout=True)
    gradients(axes[0, 0], out, records)
    bars(axes[0, 1], records, "fvu, first out")
    sweep(axes[1, 0], records, "dead %")
    sweep(axes[1, 1], records, "fvu, first out")
    figure.savefig(out / "first_token.png", dpi=110)


if __name__ == "__main__":
    main()
