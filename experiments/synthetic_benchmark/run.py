"""Train every entry of the synthetic benchmark, one after another; entries that are there are kept.

    python -m experiments.synthetic_benchmark.run --out runs --peers-python PEERS/bin/python
    python -m experiments.synthetic_benchmark.run --out runs --only ours-batch_topk --seeds 0

Ours are ``python -m sae_lightning.train data=synthetic model=...``; sae-lens reads the same samples through a pipe.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

D_SAE, K, TOKENS = 1024, 10, 5_000_000
# sae-lens wants nested sizes named; these are SynthSAEBench's, in proportion, and ours.
WIDTHS = {"": [32, 128, 512, 1024], "5": [32, 96, 224, 480, 1024]}
PEER_RATES = (3e-4, 1e-3, 3e-3)

# standard and gated have no k: their l1 is given on the command line (--settings), see README.md.
OURS = {
    "batch_topk": [f"sae.k={K}"],
    "matryoshka": [f"sae.k={K}"],
    "topk": [f"sae.k={K}"],
    "jumprelu": ["losses.l0.mode=target_l0", f"losses.l0.target_l0={K}"],
    "standard": [],
    "gated": [],
}


def ours(model: str, seed: int, folder: Path, extra: Sequence[str] = ()) -> None:
    """Train one of ours from the command line."""
    settings = [f"model={model}", f"sae.d_sae={D_SAE}", f"tokens={TOKENS}", f"seed={seed}", *OURS[model], *extra]
    quiet = ["evaluation.every_n_steps=0", "callbacks.checkpoints.best=false", f"paths.run_dir={folder}"]
    command = [sys.executable, "-m", "sae_lightning.train", "data=synthetic", *settings, *quiet]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def peer(python: str, arch: str, lr: float, seed: int, folder: Path, widths: Sequence[int]) -> None:
    """Train one of sae-lens's on the samples that ours of the same seed read."""
    here = Path(__file__).parent
    writer = [sys.executable, "-m", "experiments.synthetic_benchmark.samples", f"--tokens={TOKENS}", f"--seed={seed}"]
    reader = [
        *(python, "-W", "ignore", str(here / "peers.py"), "--arch", arch, "--d-in", "256", "--d-sae", str(D_SAE)),
        *("--k", str(K), "--tokens", str(TOKENS), "--lr", str(lr), "--seed", str(seed), "--out", str(folder)),
        *("--widths", *(str(width) for width in widths)),
    ]
    with subprocess.Popen(writer, stdout=subprocess.PIPE) as samples:
        subprocess.run(
            reader,
            check=True,
            stdin=samples.stdout,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"WANDB_MODE": "disabled"},
        )


def entries(a: argparse.Namespace) -> dict[str, tuple]:
    """Return what there is to train: name -> (function, arguments)."""
    out: dict[str, tuple] = {}
    for seed in a.seeds:
        for model in OURS:
            out[f"ours-{model}-s{seed}"] = (ours, model, seed)
        for lr in a.rates:
            out[f"saelens-batchtopk-lr{lr:g}-s{seed}"] = (peer, a.peers_python, "batchtopk", lr, seed, [])
            for name, widths in WIDTHS.items():
                out[f"saelens-matryoshka{name}-lr{lr:g}-s{seed}"] = (
                    *(peer, a.peers_python, "matryoshka_batchtopk", lr, seed, widths),
                )
    return {name: job for name, job in out.items() if any(name.startswith(only) for only in a.only or [""])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="*", default=PEER_RATES, help="learning rates of sae-lens's")
    parser.add_argument("--only", nargs="*", help="only entries whose name begins so")
    parser.add_argument("--peers-python", help="python of the environment with sae-lens")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of ours, e.g. sae.l1=4")
    a = parser.parse_args()
    todo = entries(a)
    if not a.peers_python:
        todo = {name: job for name, job in todo.items() if name.startswith("ours")}
    for number, (name, job) in enumerate(todo.items(), 1):
        folder = (a.out / name).resolve()
        if (folder / "metrics.json").is_file() or (folder / "facts.json").is_file():
            continue
        print(f"{number} of {len(todo)}: {name}", file=sys.stderr, flush=True)
        function, *arguments = job
        if function is ours:
            ours(arguments[0], arguments[1], folder, a.settings)
        else:
            python, arch, lr, seed, widths = arguments
            peer(python, arch, lr, seed, folder, widths)


if __name__ == "__main__":
    main()
