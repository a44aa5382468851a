"""Crosscoders of two planted models: which features does each call one model's own, and is it right?

    python -m experiments.diffing.run outputs/diffing
    python -m experiments.diffing.run outputs/diffing --seeds 0 tokens=200000

One bank a seed: planted data, order of rows and weights are all drawn anew. Then ``sae_lightning.evaluate`` on held-out
rows, and the tables of README.md from its evaluation.json.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.banks import run_bank, table

SEEDS = (0, 1, 2)
SETTINGS = [
    "data=two_models",
    "tokens=1500000",
    "sae.d_sae=384",
    "evaluation.every_n_steps=0",
    "callbacks.checkpoints.best=false",
    "callbacks.density=null",
]
# L1's usual rate is for longer runs; four times as much is the highest that the boost for short ones gives.
L1 = {"model": "standard", "optimizer.base_lr": 2e-4}
LANES = {
    "batch_topk-k4": {"model": "batch_topk", "sae.k": 4},
    "batch_topk-k8": {"model": "batch_topk", "sae.k": 8},
    "l1-2": {**L1, "sae.l1": 2},
    "l1-4": {**L1, "sae.l1": 4},
    "l1-6": {**L1, "sae.l1": 6},
}
STUDIES = ("reconstruction", "sites", "latent_scaling", "sparsity", "groundtruth")
#: Columns of the table: figure, study, digits.
FIGURES = {
    "fvu": ("reconstruction", "fvu", 3),
    "l0": ("sparsity", "l0", 1),
    "mcc": ("groundtruth", "mcc", 2),
    "matched": ("sites", "norm_matched", 2),
    "by norm: right": ("sites", "norm_right", 3),
    "invented": ("sites", "norm_invented", 3),
    "by scaling: right": ("latent_scaling", "scaled_right", 3),
    "invented ": ("latent_scaling", "scaled_invented", 3),
    "overturned": ("latent_scaling", "scaled_overturned", 3),
}


def evaluate(out: Path) -> dict[str, Any]:
    """Return the evaluation of a bank's lanes; kept beside it."""
    kept = out / "evaluation" / "evaluation.json"
    if not kept.is_file():
        saes = ",".join(str(out / "bank" / "lanes" / name) for name in LANES)
        settings = [f"sae=[{saes}]", f"studies=[{','.join(STUDIES)}]", f"out={kept.parent}", "tokens=131072"]
        subprocess.run([sys.executable, "-m", "sae_lightning.evaluate", *settings], check=True)
    return json.loads(kept.read_text(encoding="utf-8"))


def values(evaluation: dict[str, Any], name: str) -> dict[str, float | None]:
    """Return one lane's figures."""
    studies = evaluation["saes"][name]["studies"]
    return {column: studies[s]["estimates"][key]["value"] for column, (s, key, _) in FIGURES.items()}


def summary(found: Sequence[dict[str, float | None]]) -> dict[str, str]:
    """Return means over seeds with the sample standard deviation where there are several."""
    row = {}
    for column, (_, _, digits) in FIGURES.items():
        some = np.array([one[column] for one in found if one[column] is not None], dtype=float)
        spread = f" ± {some.std(ddof=1):.{digits}f}" if len(some) > 1 else ""
        row[column] = f"{some.mean():.{digits}f}{spread}" if len(some) else "-"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="overrides of every bank")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    options = parser.parse_intermixed_args()
    evaluations = []
    for seed in options.seeds:
        folder = options.out.resolve() / f"seed-{seed}"
        lanes = [{"name": name, **own} for name, own in LANES.items()]
        run_bank(folder / "bank", lanes, [*SETTINGS, f"seed={seed}", f"data.synthetic.seed={seed}", *options.settings])
        evaluations.append(evaluate(folder))
    rows = [{"crosscoder": name, **summary([values(one, name) for one in evaluations])} for name in LANES]
    text = table(rows, ["crosscoder", *FIGURES])
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
