"""Draw delta_ce and fvu of each objective with their intervals, from the evaluations of ``run``.

python -m experiments.e2e_vs_local.plot outputs/e2e_vs_local
"""

import argparse
import json
from pathlib import Path

from experiments.e2e_vs_local.run import folder_names


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    names = folder_names()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True, sharey=True)
    for number, path in enumerate(sorted(out.glob("seed-*/evaluation/evaluation.json"))):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        for place, folder in enumerate(names.values()):
            own = next(value for name, value in evaluation["saes"].items() if name.endswith(folder))
            found = {key: value for study in own["studies"].values() for key, value in study["estimates"].items()}
            for axis, metric in zip(axes, ("delta_ce", "fvu"), strict=True):
                e = found[metric]
                ends = [[e["value"] - e["low"]], [e["high"] - e["value"]]]
                label = path.parts[-3] if place == 0 else None
                axis.errorbar(e["value"], place + 0.12 * number, xerr=ends, fmt="o", color=f"C{number}", label=label)
    axes[0].set_yticks(range(len(names)), list(names))
    axes[0].invert_yaxis()
    axes[0].set_xlabel("delta_ce, nats a token")
    axes[1].set_xlabel("fvu")
    for axis in axes:
        axis.grid(alpha=0.3, axis="x")
    axes[0].legend(frameon=False, loc="lower right")
    figure.savefig(out / "e2e_vs_local.png", dpi=130)


if __name__ == "__main__":
    main()
