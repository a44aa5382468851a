"""Draw fvu and l0 against lambda_eff from the records of ``run``.

python -m experiments.l1_collapse.plot outputs/l1_collapse
"""

import argparse
import json
from pathlib import Path

from experiments.l1_collapse.run import BATCH, D_IN, LANES


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    records = [json.loads(line) for line in (out / "bank" / "records.jsonl").read_text().splitlines()]
    pairs = [(lane, record) for lane, record in zip(LANES, records, strict=True) if "fvu" in record]
    grid = [p for p in pairs if p[0]["name"].startswith("l1=") and "," not in p[0]["name"] and p[0]["sae.l1"] > 0]
    papers = [p for p in pairs if p[0]["name"] == "per-token l1=5"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for axis, metric in zip(axes, ("fvu", "l0"), strict=True):
        for points, label, marker in ((grid, "the log's lambdas", "o"), (papers, "5 meant per token", "*")):
            x = [lane["sae.l1"] * BATCH * D_IN for lane, _ in points]
            axis.plot(x, [record[metric] for _, record in points], marker, markersize=9, label=label)
        axis.axvspan(1, 20, alpha=0.15, label="usual range")
        axis.set(xscale="log", xlabel="lambda_eff (per token)", ylabel=metric)
        axis.grid(alpha=0.3)
    axes[1].set_yscale("log")
    axes[0].legend(frameon=False)
    figure.suptitle("The collapse is the coefficient's convention")
    figure.savefig(out / "l1_collapse.png", dpi=130)


if __name__ == "__main__":
    main()
