"""What a bank of 8 lanes costs against one pass of the language model plus the 8 lanes' own steps, in one run.

    python -m experiments.benchmarks.bank.bench --steps 60

The pass: a StreamSource drained alone. A lane's steps: its solo run through the real Trainer on batches that are in
memory already. The bank: the real Trainer on a StreamSource. The solo runs are split around the bank, and the pass is
taken before and after, so that a machine whose speed drifts does not favour one side. Prints one JSON line.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch

from experiments.benchmarks.stateless import Stateless
from sae_lightning import command
from sae_lightning.activations import StreamSource
from sae_lightning.build import Run, build_run, lane_configs
from sae_lightning.config import RunConfig, validate
from sae_lightning.core import ActivationBatch
from sae_lightning.training import ActivationDataModule

KS = (8, 12, 16, 24, 32, 40, 48, 64)


class Stopwatch(L.Callback):
    """Seconds from the first request for a batch to the last step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.started


class InMemory(Stateless):
    """Batches that were read before: an ActivationSource without a source."""

    def __init__(self, batches: list[ActivationBatch]) -> None:
        self.batches = batches
        self.batch_size = len(batches[0])
        self.d_in = self.d_out = batches[0].x.shape[1]

    def __iter__(self) -> Iterator[ActivationBatch]:
        return iter(self.batches)


def config(steps: int, more: list[str]) -> tuple[RunConfig, list[str]]:
    overrides = [
        "model=topk",
        f"tokens={2048 * steps}",
        "data.cache=off",
        "normalise.sample_tokens=4096",
        "evaluation.every_n_steps=0",
        "evaluation.final_tokens=2048",
        "evaluation.downstream_tokens=0",
        "callbacks.checkpoints.every_n_steps=1000000",
        "callbacks.checkpoints.best=false",
        "logger=none",
        "progress=false",
        *more,
    ]
    return validate(command.plain(command.compose("train", overrides))), overrides


def fit(run: Run) -> float:
    """Train and return the seconds of the steps; what is measured and written at the end is not in them."""
    watch = Stopwatch()
    unwanted = ("Export", "ScalingLog", "Checkpoints", "ProgressFile")
    callbacks = [c for c in run.trainer.callbacks if type(c).__name__ not in unwanted]  # pyright: ignore
    run.trainer.callbacks = [*callbacks, watch]  # pyright: ignore[reportAttributeAccessIssue]
    run.trainer.fit(run.module, datamodule=run.datamodule)
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("settings", nargs="*", help="overrides of all runs, e.g. sae.d_sae=4608")
    options = parser.parse_intermixed_args()
    command.quiet_warnings()
    logging.basicConfig(level=logging.ERROR)
    torch.set_flush_denormal(True)
    folder = Path(tempfile.mkdtemp())
    base, overrides = config(options.steps, options.settings)
    lanes = lane_configs(base.model_copy(update={"bank": [{"sae.k": k} for k in KS]}), overrides)

    def drained(name: str) -> tuple[float, list[ActivationBatch]]:
        source = build_run(base, folder / name).data.source
        assert isinstance(source, StreamSource)
        started = time.perf_counter()
        batches = [source.next() for _ in range(options.steps)]
        return time.perf_counter() - started, batches

    solos: dict[str, float] = {}
    weights: dict[str, dict[str, torch.Tensor]] = {}

    def solo(name: str, batches: list[ActivationBatch]) -> None:
        run = build_run(lanes[name], folder / f"solo-{name}")
        run.datamodule = ActivationDataModule(InMemory(batches), options.steps)
        solos[name] = fit(run)
        weights[name] = run.module.each_lane()[0][1].sae.state_dict()

    first, batches = drained("before")
    names = list(lanes)
    for name in names[:4]:
        solo(name, batches)
    bank_config = base.model_copy(update={"bank": [{"sae.k": k} for k in KS]})
    bank = build_run(bank_config, folder / "bank", lanes)
    seconds = fit(bank)
    for name in names[4:]:
        solo(name, batches)
    second, _ = drained("after")
    equal = all(
        torch.equal(value, weights[name][key])
        for name, lane in bank.module.each_lane()
        for key, value in lane.sae.state_dict().items()
    )
    pass_seconds = (first + second) / 2
    print(
        json.dumps(
            {
                "steps": options.steps,
                "threads": torch.get_num_threads(),
                "lm_pass_s": [round(first, 2), round(second, 2)],
                "solo_steps_s": {name: round(value, 2) for name, value in solos.items()},
                "bank_s": round(seconds, 2),
                "ratio": round(seconds / (pass_seconds + sum(solos.values())), 3),
                "weights_bit_equal": equal,
            }
        )
    )


if __name__ == "__main__":
    main()
