"""Sequential reading of a cache's files against the shuffled reader: bytes of stored vectors a second, and RSS.

python -m experiments.benchmarks.cache_reader.bench [--gb 2] [--times 10] [--rounds 3] [--folder DIR]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from experiments.benchmarks.cache_reader.fake import SITE, noise_cache
from sae_lightning.activations import MaskPolicy
from sae_lightning.activations.cache import ActivationCache, CachedHarvester, CachedSource
from sae_lightning.core import Sites
from sae_lightning.tokens import EpochOrder, WindowSample

BATCH = 4096


def drop(cache: ActivationCache) -> None:
    """Put the cache's files out of the page cache."""
    for entry in cache.manifest.shards:
        for name in (entry.file, entry.index):
            fd = os.open(cache.folder / name, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def sequential(cache: ActivationCache) -> float:
    """Read the files of the vectors from end to end into one buffer; return bytes a second."""
    buffer = bytearray(8 << 20)
    begin, n = time.perf_counter(), 0
    for entry in cache.manifest.shards:
        with open(cache.folder / entry.file, "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                n += got
    return n / (time.perf_counter() - begin)


def shuffled(cache: ActivationCache, windows: WindowSample, buffer_tokens: int = 65_536) -> float:
    """Read every row once in shuffled order, as float32 batches with their token numbers; return stored bytes/s."""
    fresh = ActivationCache.open(cache.folder)
    mask = MaskPolicy(norm_multiple=10.0, median_norm=24.0)  # the default one: looks at every norm
    harvester = CachedHarvester({SITE: fresh}, Sites((SITE,), (SITE,)), windows, mask)
    n_batches = (fresh.n_rows - len(windows)) // BATCH  # the first position of each window is masked
    budget = n_batches * BATCH
    source = CachedSource(
        harvester, EpochOrder(len(windows), 0), batch_size=BATCH, buffer_tokens=buffer_tokens, seed=0, budget=budget
    )
    begin = time.perf_counter()
    for _ in range(n_batches):
        source.next()
    seconds = time.perf_counter() - begin
    source.close()
    return budget * fresh.d * fresh.dtype.itemsize / seconds


def measure(folder: Path, gigabytes: float, rounds: int) -> dict[str, float]:
    """Return medians over rounds in which the four readings follow each other."""
    cache, windows = noise_cache(folder, gigabytes)
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        drop(cache)
        seen.setdefault("sequential cold", []).append(sequential(cache) / 1e9)
        drop(cache)
        seen.setdefault("shuffled cold", []).append(shuffled(cache, windows) / 1e9)
        seen.setdefault("sequential warm", []).append(sequential(cache) / 1e9)
        seen.setdefault("shuffled warm", []).append(shuffled(cache, windows) / 1e9)
    out = {"GB": sum(entry.bytes for entry in cache.manifest.shards) / 1e9}
    out |= {name: statistics.median(values) for name, values in seen.items()}
    out |= {f"{name} share": out[f"shuffled {name}"] / out[f"sequential {name}"] for name in ("cold", "warm")}
    return out | {"peak RSS MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--one", type=float, default=None, help="measure one size and print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.one:
            print(json.dumps(measure(arguments.folder or Path(folder), arguments.one, arguments.rounds)))
            return
        for gigabytes in (arguments.gb, arguments.gb * arguments.times):
            place = Path(folder) / f"{gigabytes:g}"
            place.mkdir()
            command = [sys.executable, "-m", __spec__.name, "--one", str(gigabytes), "--folder", str(place)]
            command += ["--rounds", str(arguments.rounds)]
            values = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print("  ".join(f"{name}: {value:.2f}" for name, value in values.items()))


if __name__ == "__main__":
    main()
