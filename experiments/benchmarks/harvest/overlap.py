"""Does it pay to read the language model on a thread while the SAE trains? Tokens a second through the real Trainer.

    python -m experiments.benchmarks.harvest.overlap --threads 2
    python -m experiments.benchmarks.harvest.overlap --threads 2 --quick

apart: as the package does it, the buffer is refilled when it runs low and training waits. ahead: a thread draws batches
before they are asked for, and both have all the threads. split: likewise, and each has half of them. Each run is a
process of its own; the ways follow each other in every round. One JSON line a run, then a table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.machine import describe
from experiments.benchmarks.stamps import StampedSource, fit_until_measured
from sae_lightning import command
from sae_lightning.activations.cache.ahead import Ahead
from sae_lightning.build import build_run
from sae_lightning.config import validate

WAYS = ("apart", "ahead", "split")
BUFFER = 16_384


def drawn_ahead(source: Any, threads: int, depth: int) -> Ahead[Any]:
    """Let ``source.next`` hand out batches that a thread with ``threads`` threads of its own has drawn."""
    draw = source.next

    def items() -> Iterator[Any]:
        torch.set_num_threads(threads)
        while True:
            yield draw()

    ahead = Ahead(items(), depth, "language model")
    source.next = ahead.next
    return ahead


def one(a: argparse.Namespace) -> dict[str, Any]:
    """Train in this process and return tokens a second over whole rounds of the buffer."""
    torch.set_num_threads(a.threads)
    per_refill = BUFFER // 2 // a.batch
    steps = (1 + a.refills) * per_refill
    overrides = [
        "model=topk",
        f"sae.d_sae={a.d_sae}",
        f"sites.layer={a.layer}",
        f"data.batch_size={a.batch}",
        f"data.buffer_tokens={BUFFER}",
        "data.cache=off",
        "tokens=10000000",
        "normalise.sample_tokens=4096",
        "evaluation.every_n_steps=0",
        "progress=false",
    ]
    config = validate(command.plain(command.compose("train", overrides)))
    with tempfile.TemporaryDirectory() as folder:
        run = build_run(config, Path(folder) / "run")
        ahead = None
        if a.way != "apart":
            half = max(1, a.threads // 2) if a.way == "split" else a.threads
            ahead = drawn_ahead(run.data.source, half, per_refill)
            torch.set_num_threads(half)
        source = StampedSource(run.data.source, steps)  # pyright: ignore[reportArgumentType] - a stream has next
        fit_until_measured(run, source)
        if ahead is not None:
            ahead.close()
    taken = sum(source.seconds()[per_refill:])
    return {
        "where": describe("cpu", a.threads),
        "way": a.way,
        "d_sae": a.d_sae,
        "layer": a.layer,
        "batch": a.batch,
        "seconds": taken,
        "tokens_per_s": a.refills * per_refill * a.batch / taken,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-sae", type=int, default=16_384)
    parser.add_argument("--layer", type=int, default=9)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--refills", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, default=None, help="one run in this process")
    parser.add_argument("--quick", action="store_true")
    a = parser.parse_args()
    if a.way:
        print(json.dumps(one(a)))
        return
    if a.quick:
        a.refills, a.rounds = 2, 1
    arguments = ["--d-sae", a.d_sae, "--layer", a.layer, "--batch", a.batch, "--threads", a.threads]
    arguments += ["--refills", a.refills]
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(a.rounds):
        for way in WAYS:
            call = [sys.executable, "-m", "experiments.benchmarks.harvest.overlap", "--way", way, *map(str, arguments)]
            out = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout
            line = json.loads(out.strip().splitlines()[-1])
            print(json.dumps(line), flush=True)
            speeds[way].append(line["tokens_per_s"])
    print("\n| way | tokens/s | over apart |\n|---|---|---|")
    for way in WAYS:
        ratios = [x / base for x, base in zip(speeds[way], speeds["apart"], strict=True)]
        middle = statistics.median(ratios)
        print(f"| {way} | {statistics.median(speeds[way]):,.0f} | {middle:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
