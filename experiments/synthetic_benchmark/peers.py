#!/usr/bin/env python3
"""Train sae-lens's SAE on rows from stdin (raw float32 [n, d_in]) and save it with its own save.

    ... | PEERS/bin/python peers.py --arch batchtopk --d-in 256 --d-sae 1024 --k 10 --tokens 5000000 --out FOLDER

Its defaults for synthetic data (batch 1024, Adam 0.9/0.999, dead after 1,000 steps, aux coefficient 1) but for --lr,
which falls to 0 over the last --decay of the steps.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer


def stream(batch, d_in):
    """Yield float32 [batch, d_in] tensors until the pipe ends."""
    size = batch * d_in * 4
    while len(data := sys.stdin.buffer.read(size)) == size:
        yield torch.from_numpy(np.frombuffer(data, np.float32).reshape(batch, d_in).copy())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--arch", choices=["batchtopk", "matryoshka_batchtopk"], required=True)
    p.add_argument("--d-in", type=int, required=True)
    p.add_argument("--d-sae", type=int, required=True)
    p.add_argument("--k", type=float, required=True)
    p.add_argument("--widths", type=int, nargs="*", help="matryoshka's nested sizes, the last one d_sae")
    p.add_argument("--tokens", type=int, required=True)
    p.add_argument("--batch", type=int, default=1024)
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--decay", type=float, default=0.2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    steps = a.tokens // a.batch
    cls, config = get_sae_training_class(a.arch)
    extra = {"matryoshka_widths": a.widths} if a.arch.startswith("matryoshka") else {}
    torch.manual_seed(a.seed)
    sae = cls(config(d_in=a.d_in, d_sae=a.d_sae, k=a.k, **extra))
    cfg = SAETrainerConfig(
        total_training_samples=steps * a.batch,
        train_batch_size_samples=a.batch,
        lr=a.lr,
        lr_end=a.lr / 10,
        lr_decay_steps=int(steps * a.decay),
        logger=LoggingConfig(log_to_wandb=False, eval_every_n_wandb_logs=2**31 - 1),
    )
    begun = time.perf_counter()
    # One batch more than is trained on would leave the writer of the pipe hanging: the stream ends by itself.
    SAETrainer(cfg, sae, stream(a.batch, a.d_in)).fit()
    seconds = time.perf_counter() - begun
    sae.save_inference_model(a.out)
    facts = {"arch": a.arch, "lr": a.lr, "seed": a.seed, "k": a.k, "widths": a.widths, "seconds": seconds}
    (a.out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
