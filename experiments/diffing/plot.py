"""Draw what ``run`` found: shares of the decoder norm by kind of planted feature, and how often each method is wrong.

python -m experiments.diffing.plot outputs/diffing
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.diffing.run import LANES, values

SHOWN = ("batch_topk-k4", "l1-4")


def histogram(axis: Any, evaluation: dict[str, Any], name: str) -> None:
    """Draw how many features have which share of their norm in the tuned model."""
    rows = evaluation["saes"][name]["studies"]["sites"]["tables"]["share_histogram"]["rows"]
    lows, highs, counts = (np.array(column) for column in list(zip(*rows, strict=True))[:3])
    axis.bar(lows, counts, highs - lows, align="edge", color="#0072b2")
    for cut in (0.1, 0.9):
        axis.axvline(cut, linestyle=":", color="grey")
    axis.set(title=name, xlabel="tuned model's share of the decoder norm", ylabel="features", xlim=(0, 1))


def wrong(axis: Any, evaluations: list[dict[str, Any]]) -> None:
    """Draw the share of shared features that each crosscoder gives to one model, by norms and by latent scaling."""
    for number, (column, label) in enumerate((("invented", "by norm"), ("invented ", "by latent scaling"))):
        for place, name in enumerate(LANES):
            found = [100 * (values(one, name)[column] or 0.0) for one in evaluations]
            axis.bar(
                place + 0.38 * number,
                np.mean(found),
                0.36,
                color=("#d55e00", "#009e73")[number],
                label=label if not place else None,
            )
            axis.plot([place + 0.38 * number] * len(found), found, "k.", markersize=4)
    axis.set_xticks(np.arange(len(LANES)) + 0.19, list(LANES), rotation=35, ha="right", fontsize=8)
    axis.set(ylabel="% of shared features", title="Exclusive features that were invented")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3, axis="y")


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    paths = sorted(out.glob("seed-*/evaluation/evaluation.json"))
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    for axis, name in zip(axes, SHOWN, strict=False):
        histogram(axis, evaluations[0], name)
    wrong(axes[2], evaluations)
    figure.savefig(out / "diffing.png", dpi=110)


if __name__ == "__main__":
    main()
