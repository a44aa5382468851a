"""The making and reading of a feature store: speed beside a harvest, latency of queries, memory, co-occurrence, report.

    python -m experiments.benchmarks.index.bench SAE STORE --out results.jsonl
    python -m experiments.benchmarks.index.bench SAE STORE --what speed queries

SAE: a run folder or an export; STORE: a store made of it. ``speed``: the same windows through the language model alone
and through the whole of index (language model, SAE, files), in turn; the ratio is within a round. ``queries``: every
feature's top tokens, and the features of random tokens. ``memory``: the peak of the index command over a text and over
four times as much. ``cooccurrence`` and ``report``: in processes of their own, on STORE. One JSON line each.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.machine import describe

CONTEXT = 128


def speed(a: argparse.Namespace) -> dict[str, Any]:
    """Return tokens a second of a plain harvest and of an index, and their ratio in each round."""
    from sae_lightning import command
    from sae_lightning.build.indexing import build_plan
    from sae_lightning.config import IndexConfig, validate
    from sae_lightning.store import writer

    plain = command.plain(command.compose("index", [f"sae={a.sae}", "store=unused", f"tokens={a.tokens}"]))
    plan = build_plan(validate({**plain, "progress": False}, IndexConfig))
    harvester, _, features_of = plan.encode.args  # type: ignore[attr-defined] - a partial
    numbers = list(range(plan.corpus.n_windows))

    def harvest() -> None:
        for first in range(0, len(numbers), plan.unit):
            harvester.rows(numbers[first : first + plan.unit])

    def index() -> None:
        with tempfile.TemporaryDirectory() as folder:
            state = {"windows": 0, **dict.fromkeys(writer._PAIRS, 0)}
            writer._write_pairs(Path(folder), plan, state, show=False, every=5.0)

    def encode() -> None:
        features_of(x)

    _, rows, keep = harvester.full(numbers[: plan.unit])
    x = rows[keep].float()
    index()  # every first allocation
    rounds = [(_seconds(harvest), _seconds(index)) for _ in range(a.rounds)]
    ratios = [one / other for one, other in rounds]
    n = len(numbers) * CONTEXT
    return {
        "tokens": n,
        "harvest_tokens_per_s": n / statistics.median(one for one, _ in rounds),
        "index_tokens_per_s": n / statistics.median(other for _, other in rounds),
        "index_over_harvest": [statistics.median(ratios), min(ratios), max(ratios)],
        "encode_share": statistics.median(_seconds(encode) for _ in range(5))
        * (len(numbers) / plan.unit)
        / statistics.median(other for _, other in rounds),
    }


def queries(a: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds of opening and of queries: median, 99th percentile, most; the files are in the page cache."""
    from sae_lightning.store import FeatureStore

    opened = [_seconds(lambda: FeatureStore.open(a.store)) for _ in range(20)]
    store = FeatureStore.open(a.store)
    store.verify(show=False)  # reads every file once
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, store.n_tokens, 10_000).tolist()
    features = list(range(store.d_sae))
    asked: dict[str, tuple[Callable[[int], Any], list[int]]] = {
        "top_tokens": (lambda f: store.top_tokens(f, 20), features),
        "lowest_tokens": (lambda f: store.top_tokens(f, 20, lowest=True), features),
        "features_at": (store.features_at, tokens),
        "context": (lambda t: store.context(t, 20, 20), tokens),
        "context_words": (lambda t: store.context(t, 20, 20, "words"), tokens[:2000]),
        "quantile_samples": (lambda f: store.quantile_samples(f, 5, 5), features),
    }
    out: dict[str, Any] = {"tokens": store.n_tokens, "activations": store.nnz, "open_ms": _spread(opened)}
    for name, (query, over) in asked.items():
        out[f"{name}_ms"] = _spread([_seconds(lambda q=query, i=item: q(i)) for item in over])
    return out


def memory(a: argparse.Namespace) -> dict[str, Any]:
    """Return the peak resident memory, in MiB, of index over ``tokens`` and over four times as many."""
    out = {}
    for times in (1, 4):
        with tempfile.TemporaryDirectory() as folder:
            arguments = [f"sae={a.sae}", f"store={folder}/store", f"tokens={times * a.tokens}", "progress=false"]
            found = _process(["-m", "sae_lightning.index", *arguments])
        out[f"peak_mib_{times}x"], out[f"seconds_{times}x"] = found["peak_mib"], found["seconds"]
    return {"tokens": a.tokens, **out, "growth": out["peak_mib_4x"] / out["peak_mib_1x"]}


def cooccurrence(a: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and peak memory of every feature's partners."""
    code = (
        "import sys, time; from sae_lightning.store import FeatureStore, open_reader\n"
        "from sae_lightning.studies import Subject\n"
        "from sae_lightning.studies.analysis import CooccurrenceStudy\n"
        "store = FeatureStore.open(sys.argv[1]); sae = open_reader(store.facts).sae; began = time.perf_counter()\n"
        "CooccurrenceStudy(show_progress=False).run(Subject(sae, store=store)); print(time.perf_counter() - began)"
    )
    found = _process(["-c", code, a.store])
    return {"study_seconds": float(found.pop("said").split()[-1]), **found}


def report(a: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of the whole analyze command, and of the site alone; and what the report weighs."""
    with tempfile.TemporaryDirectory() as folder:
        whole = _process(["-m", "sae_lightning.analyze", f"store={a.store}", f"out={folder}/report", "progress=false"])
        weight = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        files = sum(p.is_file() for p in Path(folder).rglob("*"))
    return {"seconds": whole["seconds"], "peak_mib": whole["peak_mib"], "mb": weight / 1e6, "files": files}


WHAT: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "speed": speed,
    "queries": queries,
    "memory": memory,
    "cooccurrence": cooccurrence,
    "report": report,
}


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _spread(seconds: list[float]) -> list[float]:
    """Return median, 99th percentile and most, in milliseconds."""
    return [round(1000 * float(v), 3) for v in (*np.quantile(seconds, [0.5, 0.99]), max(seconds))]


def _process(arguments: list[str]) -> dict[str, Any]:
    """Run Python with these arguments and return what it took: the operating system's own accounting of it."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([sys.executable, *arguments], stdout=said, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        complained = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError(complained[-2000:])
        said.seek(0)
        text = said.read()
    return {"seconds": time.perf_counter() - started, "peak_mib": usage.ru_maxrss / 1024, "said": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae")
    parser.add_argument("store")
    parser.add_argument("--what", nargs="+", choices=list(WHAT), default=list(WHAT))
    parser.add_argument("--tokens", type=int, default=65_536, help="of speed, and of memory's smaller text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="append the JSON lines here")
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
        os.environ["OMP_NUM_THREADS"] = str(a.threads)
    for name in a.what:
        found = {key: value for key, value in WHAT[name](a).items() if key != "said"}
        line = {"what": name, "where": describe("cpu", torch.get_num_threads()), **found}
        print(json.dumps(line), flush=True)
        if a.out is not None:
            with a.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
