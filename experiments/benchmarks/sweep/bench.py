"""Eight SAEs three ways: as cold solo runs, as one bank, and as a joblib multirun on the warm cache.

    python -m experiments.benchmarks.sweep.bench outputs/bench_sweep

Every run is the command that a user types, timed from its start to its end. A cold solo run streams from the language
model (``data.cache=off``), as it must where nothing is kept. Prints one JSON line; the folder keeps the runs.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from sae_lightning.core import file_sha256

KS = (8, 12, 16, 24, 32, 40, 48, 64)


def train(*arguments: str) -> float:
    """Run the command; return its seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "sae_lightning.train", "progress=false", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cold", default=",".join(map(str, KS)), help="the k that are run cold, e.g. 8,64")
    parser.add_argument("settings", nargs="*", help="overrides of all runs")
    options = parser.parse_intermixed_args()
    out = options.out.resolve()
    cold_ks = [int(k) for k in options.cold.split(",")]
    base = ["model=topk", "tokens=150000", "evaluation.downstream_tokens=0", *options.settings]
    cold = {k: train(*base, "data.cache=off", f"sae.k={k}", f"paths.run_dir={out}/cold-{k}") for k in cold_ks}
    kept = [*base, f"data.cache_dir={out}/cache"]
    bank = train(*kept, f"bank=[{', '.join(f'{{sae.k: {k}}}' for k in KS)}]", f"paths.run_dir={out}/bank")
    swept = ",".join(map(str, KS))
    sweep = train(*kept, "--multirun", "launcher=joblib", f"sae.k={swept}", f"hydra.sweep.dir={out}/multirun")
    runs = [out / "multirun" / str(number) for number in range(len(KS))]
    read = [json.loads((run / "metrics.json").read_text())["lm_windows_read"] for run in runs]

    def export(folder: Path) -> str:
        return file_sha256(folder / "export" / "sae.safetensors")

    equal = [export(out / "bank" / "lanes" / f"k_{k}") == export(run) for k, run in zip(KS, runs, strict=True)]
    same_cold = [export(out / f"cold-{k}") == export(runs[KS.index(k)]) for k in cold_ks]
    mean_cold = sum(cold.values()) / max(1, len(cold))
    print(
        json.dumps(
            {
                "cold_solo_s": {k: round(seconds, 1) for k, seconds in cold.items()},
                "eight_cold_s": round(mean_cold * len(KS), 1),
                "bank_with_cold_cache_s": round(bank, 1),
                "joblib_warm_s": round(sweep, 1),
                "joblib_over_cold": round(sweep / (mean_cold * len(KS)), 3),
                "lm_windows_read": read,
                "bank_export_equals_solo": equal,
                "streamed_export_equals_cached": same_cold,
            }
        )
    )


if __name__ == "__main__":
    main()
