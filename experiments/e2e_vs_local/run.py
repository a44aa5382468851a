"""End to end against local: the same size, tokens and L0; delta_ce, alive features and fvu with intervals.

python -m experiments.e2e_vs_local.run outputs/e2e_vs_local --seeds 0 1
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.banks import table

TOKENS, LAST = 300_000, 60_000
DOWNSTREAM_TOKENS = 32_768
#: Every run: batch top-k at SmolLM2's default site, nothing measured on the way but at the end.
SETTINGS = ["model=batch_topk", "sae.k=32", "evaluation.every_n_steps=0", "evaluation.downstream_tokens=0"]
#: The last part of the tokens: small steps, since the SAE is trained already. The same for every objective.
TUNING = ["data.batch_size=512", "optimizer.lr=3e-4", "scheduler.warmup=0.05", "scheduler.decay=0.5", f"tokens={LAST}"]
OBJECTIVES = {
    "local, then local": ["objective=local"],
    "local, then reconstruction + KL": ["objective=e2e_recon", "objective.logit_kl=1.0"],
    "local, then KL alone": ["objective=e2e"],
}
THROUGHOUT = "local throughout"
FIGURES = ("delta_ce", "kl", "ce_recovered_mean", "fvu", "l0", "dead")


def folder_names() -> dict[str, str]:
    """Return the folder of each run below its seed's, by the run's name."""
    return {THROUGHOUT: "local"} | {
        n: n.replace(", then ", "-").replace(" + ", "-").replace(" ", "-") for n in OBJECTIVES
    }


def train(out: Path, name: str, arguments: list[str]) -> Path:
    """Train a run in ``out / name`` unless it is complete; go on where one was stopped. Return its folder."""
    folder = out / name
    if not (folder / "metrics.json").is_file():
        begun = (folder / "config.yaml").is_file()
        given = [f"resume={folder}"] if begun else [*SETTINGS, *arguments, f"paths.run_dir={folder}"]
        subprocess.run([sys.executable, "-m", "sae_lightning.train", *given], check=True)
    return folder


def evaluate(out: Path, folders: list[Path]) -> dict[str, Any]:
    """Measure the runs on the same held-out windows, side by side; return the evaluation."""
    arguments = [
        f"sae=[{','.join(map(str, folders))}]",
        f"out={out}",
        f"tokens={DOWNSTREAM_TOKENS}",
        f"studies.downstream.tokens={DOWNSTREAM_TOKENS}",
        "studies=[reconstruction,sparsity,downstream,compare]",
    ]
    if not (out / "evaluation.json").is_file():
        subprocess.run([sys.executable, "-m", "sae_lightning.evaluate", *arguments], check=True)
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


def figures(evaluation: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Return one SAE's figures by name: value, low and high."""
    own = next(value for name, value in evaluation["saes"].items() if name.endswith(folder.name))
    return {name: figure for study in own["studies"].values() for name, figure in study["estimates"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        out = arguments.out.resolve() / f"seed-{seed}"
        own = [f"seed={seed}"]
        begun = train(out, "local-first", [*own, f"tokens={TOKENS - LAST}"])
        names = folder_names()
        folders = {THROUGHOUT: train(out, names[THROUGHOUT], [*own, f"tokens={TOKENS}"])}
        for name, objective in OBJECTIVES.items():
            start = [f"init_from={begun}", "data.seed=1000", *TUNING]
            folders[name] = train(out, names[name], [*own, *objective, *start])
        evaluation = evaluate(out / "evaluation", list(folders.values()))
        for name, folder in folders.items():
            found = figures(evaluation, folder)
            row = {"seed": seed, "run": name}
            for key in FIGURES:
                estimate = found[key]
                ends = "" if estimate["low"] is None else f" [{estimate['low']:.4g}, {estimate['high']:.4g}]"
                row[key] = f"{estimate['value']:.4g}{ends}"
            rows.append(row)
    print(table(rows, ["seed", "run", *FIGURES]))


if __name__ == "__main__":
    main()
