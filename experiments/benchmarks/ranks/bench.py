"""The most memory that any process of a run holds, alone and sharing the features of one wide SAE.

python -m experiments.benchmarks.ranks.bench [--d-sae 262144] [--steps 3] [--world 2] [--model topk]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from experiments.benchmarks.process import ROOT

D_IN, BATCH = 768, 256
_POLL_SECONDS = 0.05


def main() -> None:
    """Train the same SAE in one process and in several; print a JSON line each and one of what they have in common."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-sae", type=int, default=262_144)
    parser.add_argument("--model", default="topk")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--world", type=int, default=2)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for name, rows in (("train", BATCH * (wanted.steps + 1)), ("test", 1024)):
            np.save(f"{folder}/{name}.npy", rng.standard_normal((rows, D_IN), dtype=np.float32))
        found = [measure(wanted, Path(folder), world) for world in (1, wanted.world)]
        for line in found:
            print(json.dumps(line))
        one, many = (line["peak_mib"] for line in found)
        print(json.dumps({"peak_ratio": round(max(many) / one[0], 3), **difference(Path(folder))}))


def measure(wanted: argparse.Namespace, folder: Path, world: int) -> dict[str, Any]:
    """Run the command with ``world`` processes; return the peak (VmHWM) of each of those that train, in MiB."""
    command = [
        *(sys.executable, "-m", "sae_lightning.train", "lm=none", "data=activations", f"data.path={folder}/train.npy"),
        *(f"data.heldout={folder}/test.npy", f"model={wanted.model}", f"sae.d_sae={wanted.d_sae}", "progress=false"),
        *(f"tokens={BATCH * wanted.steps}", f"data.batch_size={BATCH}", "trainer.accelerator=cpu"),
        *("trainer.encoder=float32", "evaluation.every_n_steps=0", f"paths.run_dir={folder}/run-{world}"),
        *(f"trainer.devices={world}", "trainer.strategy=model_parallel"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peaks: dict[int, float] = {}
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, peaks, over))
    watcher.start()
    _, said = process.communicate()
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed: {said[-2000:]}")
    largest = sorted(peaks.values(), reverse=True)[:world]
    return {"d_sae": wanted.d_sae, "processes": world, "peak_mib": [round(peak) for peak in largest]}


def watch(pid: int, peaks: dict[int, float], over: threading.Event) -> None:
    """Note the peak of a process and of all that it starts, until it is over."""
    root = psutil.Process(pid)
    while not over.wait(_POLL_SECONDS):
        try:
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for one in processes:
            try:
                text = Path(f"/proc/{one.pid}/status").read_text(encoding="ascii")
            except OSError:
                continue
            for line in text.splitlines():
                if line.startswith("VmHWM:"):
                    peaks[one.pid] = int(line.split()[1]) / 1024


def difference(folder: Path) -> dict[str, float]:
    """Return the largest difference between the two exports' weights, and the share of them above 1e-5."""
    from safetensors import safe_open

    one, many = (str(path) for path in sorted(folder.glob("run-*/export/sae.safetensors")))
    with safe_open(one, framework="np") as a, safe_open(many, framework="np") as b:
        names = [name for name in sorted(a.keys()) if name.startswith(("W_", "b_"))]
        apart = [np.abs(a.get_tensor(name) - b.get_tensor(name)) for name in names]
    total = sum(one.size for one in apart)
    return {
        "largest_difference": max(float(one.max()) for one in apart),
        "above_1e-5": sum(int((one > 1e-5).sum()) for one in apart) / total,
    }


if __name__ == "__main__":
    main()
