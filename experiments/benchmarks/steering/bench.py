"""The speed of generating steered text, beside unsteered text and beside Hugging Face's own ``generate``.

    python -m experiments.benchmarks.steering.bench SAE STORE --out results.jsonl

SAE: a run folder or an export of an SAE on SmolLM2; STORE: a feature store of it. Every way writes as many texts of as
many tokens from the same prompt, none of which may end early; ways take turns within a round and ratios are within a
round. ``one``: a single text each. ``--busy``: processor time in place of the clock's, for a machine that does other
things too; with one thread that is what the clock would show on a quiet one. One JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.machine import describe

PROMPT = "I think that the weather in the mountains"
SAMPLES = 8


def measure(a: argparse.Namespace) -> dict[str, Any]:
    """Return tokens a second of each way, median over rounds, and what each takes of ``transformers``' time."""
    from transformers import AutoModelForCausalLM

    from sae_lightning.lm.embedded import smollm2_folder
    from sae_lightning.store import FeatureStore, open_reader
    from sae_lightning.studies.steering.edits import clamp, resolve
    from sae_lightning.studies.steering.generate import generate
    from sae_lightning.studies.steering.sampling import Sampling
    from sae_lightning.studies.steering.steering import Steering

    store = FeatureStore.open(a.store)
    reader = open_reader(store.facts, a.sae, a.store)
    ids = reader.cut(PROMPT)[1]
    steering = Steering(reader, resolve({a.feature: clamp("2x")}, store))
    spliced = Steering(reader, {}, keep_error=False)
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.bfloat16).eval()
    start = [] if reader.start is None else [reader.start]
    prompt = torch.tensor([[*start, *ids.tolist()]])
    written: dict[str, int] = {}

    def sampled(name: str, steering: Steering | None, n: int, cached: bool = True) -> None:
        made = generate(reader, ids, steering, Sampling(a.tokens, seed=a.seed, cached=cached), n)
        # A text that ends early still keeps its row busy until the others are through.
        written[name] = n * max(len(one.token_ids) for one in made)

    def theirs(name: str, n: int) -> None:
        settings = {"do_sample": True, "max_new_tokens": a.tokens, "min_new_tokens": a.tokens, "top_k": 0}
        out = model.generate(prompt, num_return_sequences=n, attention_mask=torch.ones_like(prompt), **settings)
        written[name] = n * (out.shape[1] - prompt.shape[1])

    ways: dict[str, Callable[[], None]] = {
        "transformers": lambda: theirs("transformers", SAMPLES),
        "unsteered": lambda: sampled("unsteered", None, SAMPLES),
        "steered": lambda: sampled("steered", steering, SAMPLES),
        "reconstruction": lambda: sampled("reconstruction", spliced, SAMPLES),
        "steered, no cache": lambda: sampled("steered, no cache", steering, SAMPLES, cached=False),
        "transformers, one": lambda: theirs("transformers, one", 1),
        "steered, one": lambda: sampled("steered, one", steering, 1),
    }
    clock = time.process_time if a.busy else time.perf_counter
    for way in ways.values():  # every first allocation, and the trials of caches and hooks
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(a.rounds):
        for name, way in ways.items():
            began = clock()
            way()
            seconds[name].append(clock() - began)
    rates = {name: [written[name] / s for s in some] for name, some in seconds.items()}
    ratios = {}
    for name in ways:
        base = "transformers, one" if name.endswith(", one") else "transformers"
        within = [rate / of for rate, of in zip(rates[name], rates[base], strict=True)]
        ratios[name] = [statistics.median(within), min(within), max(within)]
    rate = {name: statistics.median(some) for name, some in rates.items()}
    return {
        "samples": SAMPLES,
        "tokens": a.tokens,
        "rounds": a.rounds,
        "tokens_per_s": rate,
        "over_transformers": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sae")
    parser.add_argument("store")
    parser.add_argument("--feature", type=int, default=1234)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    line = {"what": "steering", "machine": describe("cpu", a.threads), **measure(a)}
    print(json.dumps(line, indent=2))
    if a.out is not None:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        with a.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
