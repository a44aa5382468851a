"""What the Trainer costs per optimiser step beyond the step's own work, with all callbacks and loggers of a real run.

    python -m experiments.benchmarks.loop.bench

The bare step is forward, loss, backward and FusedAdam's step on a copy of the run's lane, with nothing else. The run
is the command's own (config, build, fit) on batches in memory; after every ``--block`` of its steps the source does as
many bare ones, so that both are timed in turn, in one process and at the speed the machine has at that moment. A
block's time a step is from handing out its first batch to being asked for the next block's, over its steps: what is
logged and saved on the way is in it. Held-out evaluation is off, it is work of its own. Prints one JSON line a model.
"""

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.stateless import Stateless
from sae_lightning import command
from sae_lightning.build import Run, build_run
from sae_lightning.config import save_config, validate
from sae_lightning.core import ActivationBatch
from sae_lightning.losses import StepContext
from sae_lightning.training import ActivationDataModule, Lane, SAEModule
from sae_lightning.training.adam import FusedAdam


class Bare:
    """The step's own work on a copy of a run's lane."""

    def __init__(self, run: Run) -> None:
        (_, lane), *_ = run.module.every_lane()
        self.lane: Lane = copy.deepcopy(lane)
        module = SAEModule({"sae": self.lane}, run.module.settings, run.module.total_steps)
        self.adam: FusedAdam = module.configure_optimizers()["optimizer"]
        for group in self.adam.param_groups:
            group["project"] = group["renormalise"] = lane.sae.unit_norm_decoder
        self.context = run.trainer.precision_plugin.forward_context

    def step(self, batch: ActivationBatch) -> None:
        lane = self.lane
        self.adam.zero_grad()
        with self.context():
            x = lane.normaliser.apply(batch.x)
            seen = ActivationBatch(x=x, y=x, token_index=batch.token_index)
            loss, _ = lane.objective(StepContext(batch=seen, out=lane.sae(x), sae=lane.sae, dead=lane.dead()))
        loss.backward()
        self.adam.step()


class Alternating(Stateless):
    """A source of batches in memory that stops the clock every ``block`` batches for as many bare steps."""

    def __init__(self, batches: list[ActivationBatch], block: int, bare: Bare) -> None:
        self.batches, self.block, self.bare = batches, block, bare
        self.batch_size = len(batches[0])
        self.d_in = self.d_out = batches[0].x.shape[1]
        self.through_trainer: list[float] = []
        self.alone: list[float] = []

    def __iter__(self) -> Iterator[ActivationBatch]:
        number = 0
        while True:
            started = time.perf_counter()
            for _ in range(self.block):
                yield self.batches[number % len(self.batches)]
                number += 1
            between = time.perf_counter()
            for step in range(self.block):
                self.bare.step(self.batches[(number + step) % len(self.batches)])
            self.through_trainer.append((between - started) / self.block)
            self.alone.append((time.perf_counter() - between) / self.block)


def measure(model: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a model and return what its steps cost."""
    rows = np.random.default_rng(0).standard_normal((options.batch * 16, options.d_in)).astype(np.float32)
    np.save(folder / "rows.npy", rows)
    steps = options.block * (options.blocks + 2)
    overrides = [
        "lm=none",
        "data=activations",
        f"data.path={folder / 'rows.npy'}",
        f"data.batch_size={options.batch}",
        f"model={model}",
        f"sae.d_sae={options.d_sae}",
        f"tokens={options.batch * steps}",
        "normalise.sample_tokens=4096",
        "evaluation.every_n_steps=0",
        "evaluation.final_tokens=256",
        "progress=false",
        *options.settings,
    ]
    config = validate(command.plain(command.compose("train", overrides)))
    run_dir = folder / model
    save_config(config, run_dir)
    run = build_run(config, run_dir)
    batches = list(islice(run.data.source, 16))
    source = Alternating(batches, options.block, Bare(run))
    run.datamodule = ActivationDataModule(source, steps)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    # The first block warms up; of the last one the end of the run would be in the clock.
    ours, bare = source.through_trainer[1:], source.alone[1:]
    over = [a - b for a, b in zip(ours, bare, strict=True)]
    ratios = [a / b for a, b in zip(over, bare, strict=True)]
    return {
        "model": model,
        **{name: getattr(options, name) for name in ("d_in", "d_sae", "batch", "threads", "block")},
        "settings": options.settings,
        "blocks": len(ratios),
        "bare_us": round(statistics.median(bare) * 1e6),
        "overhead_us": round(statistics.median(over) * 1e6),
        "overhead_us_min_max": [round(min(over) * 1e6), round(max(over) * 1e6)],
        "overhead_over_bare": round(statistics.median(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["topk", "batch_topk", "standard"])
    parser.add_argument("--d-in", type=int, default=64)
    parser.add_argument("--d-sae", type=int, default=512)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--block", type=int, default=100, help="steps between two turns")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="three blocks: does it run?")
    parser.add_argument("--settings", nargs="*", default=[], help="overrides of the run, e.g. sae.k=8 logger=none")
    options = parser.parse_args()
    if options.quick:
        options.blocks = 3
    command.quiet_warnings()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(model, options, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
