"""How long it takes until something happens: ``--help``, a wrong key, the first step; imports of ours and the peers.

    python -m experiments.benchmarks.startup --peers-python PEERS/bin/python --out outputs/bench/cpu

Whole processes on a warm disk, median of several in turn. First step: from the start of the process to the end of the
first optimiser step of a small top-k SAE on a file of activations. Writes startup.jsonl and startup.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.machine import describe
from experiments.benchmarks.process import ROOT, MeasuringFailed, reason, run_json
from experiments.benchmarks.results import Results, markdown
from experiments.benchmarks.table import turned

KEY = ("where", "what", "round")
ROWS, WIDTH = 2048, 64

_PEERS = {
    "import sae_lens": "import sae_lens",
    "import sparsify": "import sparsify",
    "import dictionary_learning": "import dictionary_learning",
    "import sae_lens' trainer": "from sae_lens import LanguageModelSAETrainingRunner",
}


def commands(peers_python: str | None, folder: Path) -> dict[str, tuple[list[str], int]]:
    """Return what is timed: its command and the exit status that it must have."""
    train = [sys.executable, "-m", "sae_lightning.train"]
    small = ["lm=none", "data=activations", f"data.path={folder / 'rows.npy'}", "data.batch_size=256", "model=topk"]
    small += ["sae.d_sae=256", "sae.k=8", "tokens=256", f"paths.outputs={folder / 'outputs'}", "progress=false"]
    found = {
        "train --help": ([*train, "--help"], 0),
        "train with a wrong key": ([*train, "sae.d_see=1"], 2),
        "train, whole run of one step": ([*train, *small], 0),
        "import sae_lightning": ([sys.executable, "-c", "import sae_lightning"], 0),
        "import sae_lightning, load_sae": ([sys.executable, "-c", "from sae_lightning import load_sae"], 0),
        "import torch": ([sys.executable, "-c", "import torch"], 0),
    }
    if peers_python:
        found |= {what: ([peers_python, "-W", "ignore", "-c", code], 0) for what, code in _PEERS.items()}
        found["import torch (peers' environment)"] = ([peers_python, "-c", "import torch"], 0)
    return found


def seconds_of(command: Sequence[str], expected: int, threads: int) -> dict[str, float]:
    """Return how long a process took. Raises MeasuringFailed when it ends with another status than ``expected``."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode != expected:
        raise MeasuringFailed(f"exit {done.returncode}: {reason(done.stderr or done.stdout)}")
    return {"seconds": round(seconds, 3)}


def first_step(threads: int) -> dict[str, float]:
    """Return the seconds from the start of a process to the end of its first step."""
    shape = ["--d-in", str(WIDTH), "--d-sae", "256", "--k", "8", "--batch", "256", "--steps", "1", "--warmup", "1"]
    command = [sys.executable, "-m", "experiments.benchmarks.step", *shape, "--cold", "--threads", str(threads)]
    return {"seconds": run_json(command, threads)["first_step_seconds"]}


def render(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: a table for each machine."""
    parts = []
    for where in dict.fromkeys(line["where"] for line in lines):
        here = [line for line in lines if line["where"] == where]
        rows: list[list[object]] = []
        for what in dict.fromkeys(line["what"] for line in here):
            good = [line["seconds"] for line in here if line["what"] == what and "seconds" in line]
            if good:
                rows.append([what, f"{statistics.median(good):.2f}", f"{min(good):.2f}-{max(good):.2f}", len(good)])
            else:
                rows.append([what, None, next(line["error"] for line in here if line["what"] == what)[:100], 0])
        parts += [f"Measured on: {where}", markdown(("", "s", "min-max", "times"), rows)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--peers-python", help="python of the environment with the peers; left out: ours alone")
    p.add_argument("--out", type=Path, required=True, help="folder of the results")
    p.add_argument("--quick", action="store_true", help="one round")
    a = p.parse_args()
    if a.rounds < 1:
        p.error(f"--rounds {a.rounds}: must be at least 1")
    rounds = 1 if a.quick else a.rounds
    results, where = Results(a.out / "startup.jsonl", KEY), describe("cpu", a.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32))
        timed = commands(a.peers_python, folder)
        for number in range(rounds):
            for what in turned([*timed, "first step"], number):
                entry = {"where": where, "what": what, "round": number}
                if what == "first step":
                    results.measure(entry, lambda: first_step(a.threads))
                else:
                    results.measure(entry, lambda what=what: seconds_of(*timed[what], a.threads))
    page = render(results.lines)
    (a.out / "startup.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
