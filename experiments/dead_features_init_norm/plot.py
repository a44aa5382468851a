"""Draw dead features and fvu against the decoder's norm at the start, from the records of ``run``.

python -m experiments.dead_features_init_norm.plot outputs/dead_features_init_norm
"""

import argparse
import json
from pathlib import Path

from experiments.dead_features_init_norm.run import NORMS, SEEDS, VARIANTS


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    records = [json.loads(line) for line in (out / "bank" / "records.jsonl").read_text().splitlines()]
    tied, variants = records[: len(NORMS) * len(SEEDS)], records[len(NORMS) * len(SEEDS) :]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for axis, metric, label in zip(axes, ("dead", "fvu"), ("dead features, %", "fvu"), strict=True):
        factor = 100 if metric == "dead" else 1
        for seed in range(len(SEEDS)):
            values = [factor * tied[number * len(SEEDS) + seed][metric] for number in range(len(NORMS))]
            axis.plot(NORMS, values, "o-", label=f"tied, seed {SEEDS[seed]}")
        for number, (name, record) in enumerate(zip(VARIANTS, variants, strict=True)):
            norm = {"init.decoder_norm": 0.1, **VARIANTS[name]}["init.decoder_norm"]
            axis.plot([norm], [factor * record[metric]], "^sD*v"[number], markersize=9, label=name)
        axis.axvline(0.12, linestyle=":", color="grey")
        axis.set(xscale="log", xlabel="decoder norm at the start", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(out / "dead_features.png", dpi=130)


if __name__ == "__main__":
    main()
