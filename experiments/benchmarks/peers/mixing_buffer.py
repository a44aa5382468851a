#!/usr/bin/env python3
# pyright: reportMissingImports=false
# sae-lens lives in an environment of its own.
"""Rows a second through sae-lens' mixing buffer, fed from memory; prints one JSON line.

PYTHONPATH=. PEERS/bin/python -m experiments.benchmarks.peers.mixing_buffer --rows 262144 --d-in 576 --threads 2
"""

import argparse
import json
import time
from collections.abc import Iterator

import torch
from sae_lens.training.mixing_buffer import mixing_buffer
from torch import Tensor

BATCH, CHUNK = 2048, 4096


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, required=True)
    p.add_argument("--d-in", type=int, required=True)
    p.add_argument("--threads", type=int, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    rows = torch.randn(CHUNK, a.d_in)

    def endless() -> Iterator[Tensor]:
        while True:
            yield rows

    batches = iter(mixing_buffer(min(65_536, a.rows // 4), BATCH, endless()))
    next(batches)
    n = a.rows // BATCH
    begun = time.perf_counter()
    for _ in range(n):
        next(batches)
    print(json.dumps({"rows_per_s": round(n * BATCH / (time.perf_counter() - begun), 3)}))


if __name__ == "__main__":
    main()
