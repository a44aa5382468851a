#!/usr/bin/env python3
"""Time one optimiser step of a peer library, as its own trainer makes it, and print one JSON line.

    PYTHONPATH=. PEERS/bin/python -m experiments.benchmarks.peers.step --peer saelens --model batch_topk

The same planted rows, shapes and start as experiments.benchmarks.step; batches lie on the device already.
"""

import importlib
import json
import time

import torch

from experiments.benchmarks.peers.libraries import PEERS
from experiments.benchmarks.planted import endless, planted_pool, threshold_for
from experiments.benchmarks.process import peak_resident_mib, resident_mib
from experiments.benchmarks.shape import STILL, UNLIMITED, check, record, step_parser

_ROWS = 64


def main() -> None:
    parser = step_parser(__doc__, steps=5, warmup=2)
    parser.add_argument("--peer", choices=[*PEERS], required=True)
    a = parser.parse_args()
    check(parser, a)
    models, build = PEERS[a.peer]
    if a.model not in models:
        parser.error(f"--model {a.model}: {a.peer} has none; it has {', '.join(models)}")
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    cuda = a.device.startswith("cuda")
    if cuda:
        torch.set_float32_matmul_precision("high")
    module = {"saelens": "sae_lens.training.sae_trainer", "sparsify": "sparsify.sparse_coder"}
    importlib.import_module(module.get(a.peer.split("-")[0], "dictionary_learning.trainers"))
    pool = planted_pool(a.d_in, a.batch)
    base = resident_mib()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    sparse_start = a.model in UNLIMITED and a.start == "k"
    peer = build(a, STILL if sparse_start else None)
    rows = pool[0][:_ROWS].to(a.device)
    data = endless(pool, a.device)
    if sparse_start:
        assert peer.pre_acts is not None
        assert peer.start_at is not None
        with torch.no_grad():
            peer.start_at(threshold_for(peer.pre_acts(rows), a.k))
    sync = torch.cuda.synchronize if cuda else (lambda: None)
    seconds = []
    for number in range(a.warmup + a.steps):
        sync()
        begun = time.perf_counter()
        peer.step(next(data))
        sync()
        if number >= a.warmup:
            seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak_resident_mib()
    with torch.no_grad():
        l0 = float((peer.encode(rows) != 0).float().sum(-1).mean())
    base = 0.0 if cuda else base
    print(json.dumps(record(a.peer, a, seconds, base_mib=base, peak_mib=peak, l0=round(l0, 1))))


if __name__ == "__main__":
    main()
