"""Train ours and the peers on one activation file and print the table of held-out quality.

    python -m experiments.benchmarks.quality.activations --out acts
    python -m experiments.benchmarks.quality.table --acts acts --out results.jsonl --seeds 0 1 2
    python -m experiments.benchmarks.quality.table --acts acts --out results.jsonl --peers-python PEERS/bin/python

PEERS is an environment with sae-lens 6.54.12, eai-sparsify 1.3.3 and dictionary-learning 0.1.0 (sae-lens pins an older
transformer_lens, so it cannot be ours). Ours runs the train command with its defaults. Every result is one JSON line in
--out; what is there already is not run again. Dead: features without firing on the first 200,000 training rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_lightning import load_sae
from sae_lightning.metrics import FVU

OURS = ("topk", "batch_topk")
PEERS = (
    ("dl-topk", 0.001),
    ("dl-topk", 0.002),
    ("dl-topk", 0.003),
    ("dl-topk", 0.005),
    ("sparsify-topk", 0.003),
    ("sparsify-topk", 0.005),
    ("saelens-topk", 0.001),
    ("saelens-topk", 0.003),
    ("saelens-batchtopk", 0.001),
    ("saelens-batchtopk", 0.003),
)
DEAD_ROWS = 200_000


def measured(export: Path, acts: Path) -> dict[str, float]:
    """Return fvu and l0 of an export on all held-out rows, and dead on training rows, as peers.py measures them."""
    sae = load_sae(export)
    fvu, l0, n = FVU(sae.d_out), 0, 0
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    with torch.no_grad():
        for x in _rows(acts / "heldout.npy", None):
            features = sae.encode(x)
            fvu.update(x, sae.decode(features))
            l0, n = l0 + int(features.l0().sum()), n + len(x)
        for x in _rows(acts / "train.npy", DEAD_ROWS):
            fired |= sae.encode(x).fired()
    dead = 1 - float(fired.double().mean())
    return {"fvu": round(fvu.compute()["fvu"], 4), "l0": round(l0 / n, 2), "dead": round(dead, 4)}


def _rows(path: Path, limit: int | None) -> Iterator[torch.Tensor]:
    data = np.load(path, mmap_mode="r")
    for start in range(0, min(len(data), limit or len(data)), 4096):
        yield torch.from_numpy(data[start : start + 4096].astype(np.float32))


def ours(model: str, seed: int, acts: Path, tokens: int, extra: list[str]) -> dict[str, Any]:
    """Train one of ours from the command line and return its entry."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        subprocess.run(
            [
                *(sys.executable, "-m", "sae_lightning.train", "lm=none", "data=activations", f"model={model}"),
                *(f"data.path={acts / 'train.npy'}", f"data.heldout={acts / 'heldout.npy'}", f"tokens={tokens}"),
                *(f"seed={seed}", f"paths.run_dir={run}", "evaluation.every_n_steps=0"),
                *extra,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        metrics = json.loads((run / "metrics.json").read_text())
        record = json.loads((run / "records.jsonl").read_text())
        return {
            "entry": f"ours {model}",
            "lr": round(record["lr"], 6),
            "seed": seed,
            **measured(run, acts),
            "seconds": metrics["seconds"],
        }


def peer(python: str, name: str, lr: float, acts: Path, tokens: int) -> dict[str, Any]:
    """Train a peer in its environment and return its entry."""
    script = Path(__file__).with_name("peers.py")
    done = subprocess.run(
        [
            *(python, "-W", "ignore", str(script), "--peer", name, "--lr", str(lr), "--tokens", str(tokens)),
            *("--train", str(acts / "train.npy"), "--test", str(acts / "heldout.npy")),
        ],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"WANDB_MODE": "disabled"},
        text=True,
    )
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return {"entry": name, **{key: found[key] for key in ("lr", "seed", "fvu", "l0", "dead", "seconds")}}


def show(results: list[dict[str, Any]]) -> None:
    """Print the results as a Markdown table, lowest fvu first."""
    print("| | lr | seed | fvu | l0 | dead | seconds |\n|---|---|---|---|---|---|---|")
    for r in sorted(results, key=lambda r: r["fvu"]):
        cells = (r["entry"], f"{r['lr']:g}", r["seed"], f"{r['fvu']:.4f}", f"{r['l0']:.1f}", f"{r['dead']:.1%}")
        print("| " + " | ".join(map(str, (*cells, round(r["seconds"])))) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--peers-python", help="python of the environment with the peers")
    parser.add_argument("overrides", nargs="*", help="further settings of ours, e.g. optimizer.lr=2e-3")
    a = parser.parse_args()
    acts = a.acts.resolve()
    results = [json.loads(line) for line in a.out.read_text().splitlines()] if a.out.exists() else []
    have = {(r["entry"], r["lr"], r["seed"]) for r in results} | {(r["entry"], None, r["seed"]) for r in results}
    jobs = [(lambda m=m, s=s: ours(m, s, acts, a.tokens, a.overrides)) for s in a.seeds for m in OURS
            if (f"ours {m}", None, s) not in have]  # fmt: skip
    if a.peers_python:
        jobs += [(lambda n=n, lr=lr: peer(a.peers_python, n, lr, acts, a.tokens)) for n, lr in PEERS
                 if (n, lr, 0) not in have]  # fmt: skip
    for number, job in enumerate(jobs, 1):
        results.append(job())
        print(f"{number} of {len(jobs)}: {results[-1]}", file=sys.stderr, flush=True)
        with a.out.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    show(results)


if __name__ == "__main__":
    main()
