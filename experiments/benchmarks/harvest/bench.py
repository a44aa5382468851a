"""Reading activations: ours, plain Hugging Face cut off above the same layer, and the bridge; tokens a second.

    python -m experiments.benchmarks.harvest.bench --out results.jsonl
    python -m experiments.benchmarks.harvest.bench --quick

SmolLM2 on packed news. Plain: sdpa attention, the layers above taken out, no final norm and no head. Every round runs
each way once, in an order that turns from round to round; a ratio is the median over rounds of the plain seconds over
ours, with the least and the most. One JSON line for each context, then a table.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.machine import describe
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.embedded import smollm2_folder
from sae_lightning.tokens import NewsSource


def news_windows(lm: FrozenLM, windows: int, context: int) -> Tensor:
    """Return packed news [windows, context]: articles one after the other, each behind the separator."""
    assert lm.separator_id is not None
    ids: list[int] = []
    for document in NewsSource().documents():
        ids += [lm.separator_id, *lm.tokenizer.encode(document.text, add_special_tokens=False)]
        if len(ids) >= windows * context:
            break
    return torch.tensor(ids[: windows * context]).view(windows, context).to(lm.device)


def plain_model(layer: int, dtype: torch.dtype, device: str) -> nn.Module:
    """Return SmolLM2 as Hugging Face runs it, ending above ``layer``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=dtype, attn_implementation="sdpa").model
    model.layers = model.layers[: layer + 1]
    model.norm = nn.Identity()
    return model.eval().to(device)


def seconds(run: Callable[[], object], device: str) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(a: argparse.Namespace, lm: FrozenLM, plain: nn.Module, context: int) -> dict[str, Any]:
    """Return the figures at one context."""
    site = f"blocks.{a.layer}.hook_resid_post"
    tokens = news_windows(lm, max(1, a.tokens // context), context)

    def run_plain() -> Tensor:
        with torch.no_grad():
            return plain(input_ids=tokens, use_cache=False).last_hidden_state

    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: lm.activations(tokens, [site])[site],
        "plain": run_plain,
        "bridge": lambda: lm._reader.through_bridge(tokens, [site])[site],
    }
    started = time.perf_counter()
    values = {name: run() for name, run in ways.items()}  # the trial of the reader and every first allocation
    warm_up = time.perf_counter() - started
    taken: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for number in range(a.rounds):
        for name in order[number % 3 :] + order[: number % 3]:
            taken[name].append(seconds(ways[name], a.device))
    line: dict[str, Any] = {
        "where": describe(a.device, torch.get_num_threads()),
        "context": context,
        "tokens": tokens.numel(),
        "layer": a.layer,
        "dtype": a.dtype,
        "rounds": a.rounds,
        "same_bits_as_plain": torch.equal(values["ours"], values["plain"]),
        "warm_up_s": warm_up,
    }
    line |= {f"{name}_tokens_per_s": tokens.numel() / statistics.median(times) for name, times in taken.items()}
    for other in ("plain", "bridge"):
        ratios = [theirs / ours for theirs, ours in zip(taken[other], taken["ours"], strict=True)]
        line[f"speed_over_{other}"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return line


def row(line: dict[str, Any]) -> str:
    """Return a line of the table."""
    rates = [f"{line[f'{name}_tokens_per_s']:,.0f}" for name in ("ours", "plain", "bridge")]
    ratios = ["{:.2f} ({:.2f}-{:.2f})".format(*line[f"speed_over_{other}"]) for other in ("plain", "bridge")]
    return f"| {' | '.join([str(line['context']), *rates, *ratios])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--tokens", type=int, default=4096, help="in one pass")
    parser.add_argument("--layer", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="append the JSON lines here")
    parser.add_argument("--quick", action="store_true")
    a = parser.parse_args()
    if a.quick:
        a.tokens, a.rounds = 1024, 3
    if a.threads:
        torch.set_num_threads(a.threads)
    lm = FrozenLM.load(device=a.device, dtype=a.dtype)
    plain = plain_model(a.layer, lm.dtype, a.device)
    lines = []
    for context in a.contexts:
        lines.append(measure(a, lm, plain, context))
        print(json.dumps(lines[-1]), flush=True)
        if a.out is not None:
            with a.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print("\n| context | ours, tokens/s | plain | bridge | ours / plain | ours / bridge |\n|---|---|---|---|---|---|")
    print("\n".join(row(line) for line in lines))


if __name__ == "__main__":
    main()
