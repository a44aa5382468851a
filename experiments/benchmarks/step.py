"""Time one optimiser step of ours, through the real Trainer with logging on, and print one JSON line.

    python -m experiments.benchmarks.step --model topk --d-sae 16384 --k 32 --batch 2048 --threads 2
    python -m experiments.benchmarks.step --device cuda --dtype bfloat16 --batch 8192 trainer.encoder=bfloat16

The run is composed, validated and built as the train command does it (default callbacks, TensorBoard and CSV; held-out
evaluation between steps is off) and reads planted rows from a file. A step is the time between two batches that the
source hands out, so reading, normalising and logging are in it. The run is stopped after --steps of them. Further
arguments are settings of the run.
"""

import json
import logging
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.planted import planted_pool, threshold_for
from experiments.benchmarks.process import peak_resident_mib, process_started, resident_mib
from experiments.benchmarks.shape import STILL, UNLIMITED, check, record, step_parser
from experiments.benchmarks.stamps import StampedSource, fit_until_measured
from sae_lightning import command
from sae_lightning.activations import FileSource
from sae_lightning.build import Run, build_run
from sae_lightning.config import RunConfig, validate
from sae_lightning.sae import GatedSAE, JumpReLUSAE, StandardSAE

NAME = "sae_lightning"
_ROWS = 64  # that thresholds are set on: enough for k to be met, small enough to leave the peak of memory alone
_LONG_RUN = 10_000  # steps that the run believes it has: measured is its beginning


def settings(a: Namespace, folder: Path, more: list[str]) -> list[str]:
    """Return the command line of the run that is measured; ``folder`` holds its rows."""
    still = [f"optimizer.lr={STILL}"] if a.model in UNLIMITED and a.start == "k" else []
    return [
        "lm=none",
        "data=activations",
        f"data.path={folder / 'train.npy'}",
        f"data.heldout={folder / 'heldout.npy'}",
        f"data.batch_size={a.batch}",
        f"model={a.model}",
        f"sae.d_sae={a.d_sae}",
        *([f"sae.k={a.k}"] if a.model not in UNLIMITED else []),
        f"tokens={_LONG_RUN * a.batch}",
        f"trainer.accelerator={'gpu' if a.device.startswith('cuda') else 'cpu'}",
        f"trainer.precision={'bf16-mixed' if a.dtype == 'bfloat16' else '32-true'}",
        "normalise.sample_tokens=4096",
        "evaluation.every_n_steps=0",
        "progress=false",
        *still,
        *more,
    ]


def write_rows(a: Namespace, folder: Path) -> float:
    """Write the planted batches that the peers get, and other rows to hold out; return the MiB of the former."""
    np.save(folder / "heldout.npy", planted_pool(a.d_in, 256, seed=1)[0].numpy())
    rows = torch.cat(planted_pool(a.d_in, a.batch))
    np.save(folder / "train.npy", rows.numpy())
    return rows.nbytes / 2**20


def start_sparse(run: Run, rows: torch.Tensor, k: int) -> None:
    """Set biases or thresholds so that k features a row are active, as they are after some training."""
    for _, lane in run.module.each_lane():
        sae = lane.sae
        with torch.no_grad():
            t = threshold_for(sae.pre_acts(lane.normaliser.apply(rows)), k)
            if isinstance(sae, JumpReLUSAE):
                sae.log_theta.fill_(t).log_()
            elif isinstance(sae, StandardSAE | GatedSAE):
                sae.b_enc.sub_(t)


def active_features(run: Run, rows: torch.Tensor) -> float:
    """Return the mean number of active features a row, in training mode."""
    (_, lane), *_ = run.module.each_lane()
    device = lane.sae.W_enc.device
    with torch.no_grad():
        features = lane.sae.train().encode(lane.normaliser.apply(rows.to(device)))
    return float(features.l0().float().mean())


def block_bytes(config: RunConfig, d_sae: int) -> int:
    """Return the bytes of the largest block of pre-activations: [batch, d_sae] in float32, or what the run allows."""
    whole = 4 * config.data.batch_size * d_sae
    allowed = getattr(config.trainer, "pre_acts_mb", None)
    return min(whole, int(allowed * 2**20)) if isinstance(allowed, int | float) else whole


def load_everything(a: Namespace, folder: Path) -> None:
    """Train a tiny SAE: what is imported and set up on the way is no part of what an SAE takes."""
    folder.mkdir()
    tiny = Namespace(**{**vars(a), "d_in": 16, "d_sae": 64, "k": 4, "batch": 64})
    write_rows(tiny, folder)
    run = build_run(validate(command.plain(command.compose("train", settings(tiny, folder, [])))), folder / "run")
    assert isinstance(run.data.source, FileSource)
    fit_until_measured(run, StampedSource(run.data.source, 3))


def measure(a: Namespace, more: list[str], folder: Path) -> dict[str, Any]:
    """Return the record of one configuration; ``folder`` takes rows and run."""
    data_mib = write_rows(a, folder)
    config = validate(command.plain(command.compose("train", settings(a, folder, more))))
    # The file of rows is mapped into memory as it is read; the peers hold theirs from the start.
    base = resident_mib() + data_mib
    cuda = a.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    run = build_run(config, folder / "run")
    assert isinstance(run.data.source, FileSource)
    rows = run.data.source.sample(_ROWS)
    if a.model in UNLIMITED and a.start == "k":
        start_sparse(run, rows, a.k)
    source = StampedSource(run.data.source, a.warmup + a.steps, cuda=cuda)
    fit_until_measured(run, source)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak_resident_mib()
    parameters = sum(p.numel() for _, lane in run.module.each_lane() for p in lane.sae.parameters())
    block = block_bytes(config, a.d_sae)
    return record(
        NAME,
        a,
        source.seconds()[a.warmup :],
        base_mib=0.0 if cuda else base,
        peak_mib=peak,
        l0=round(active_features(run, rows), 1),
        parameters=parameters,
        block_mib=round(block / 2**20, 1),
        bound_mib=round((16 * parameters + 1.5 * block) / 2**20),
        settings=more,
        **({} if cuda else {"first_step_seconds": round(source.stamps[1] - process_started(), 3)}),
    )


def main() -> None:
    parser = step_parser(__doc__, steps=20, warmup=5)
    parser.add_argument("--cold", action="store_true", help="do not load everything before memory is looked at")
    parser.add_argument("settings", nargs="*", help="settings of the run, e.g. trainer.encoder=float32")
    a = parser.parse_intermixed_args()
    check(parser, a)
    torch.set_num_threads(a.threads)
    if a.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # as the peers' script sets it
    command.quiet_warnings()
    logging.basicConfig(level=logging.ERROR)
    torch.set_flush_denormal(True)  # before torch has started its threads, as the train command does
    with tempfile.TemporaryDirectory() as folder:
        if not a.cold:
            load_everything(a, Path(folder, "first"))
        print(json.dumps(measure(a, a.settings, Path(folder))))


if __name__ == "__main__":
    main()
