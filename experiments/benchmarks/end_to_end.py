"""Language model and SAE together: tokens a second of ours through the real Trainer, of sae-lens, and of the LM alone.

    python -m experiments.benchmarks.end_to_end --peers-python PEERS/bin/python --out outputs/bench/cpu
    python -m experiments.benchmarks.end_to_end --out outputs/bench/quick --quick

SmolLM2 (bfloat16) on news, read up to the same layer from the same windows, logging on, held-out evaluation between
steps and the activation cache off. Buffers hold 16,384 rows and are refilled by half, in ours and in sae-lens, so a
refill comes every few steps; whole such rounds are timed after one that is not. "lm alone": plain Hugging Face (sdpa)
cut off above that layer, which bounds the others. What --out has already is not run again. Writes end_to_end.jsonl,
end_to_end.md.
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.machine import describe
from experiments.benchmarks.process import peak_resident_mib, run_json
from experiments.benchmarks.results import Results, markdown
from experiments.benchmarks.stamps import StampedSource, fit_until_measured
from experiments.benchmarks.table import turned
from sae_lightning import command
from sae_lightning.config import RunConfig, validate

OURS, LM = "sae_lightning", "lm alone"
PEERS = ("saelens", "saelens-prefetch")
BUFFER = 16_384
KEY = ("where", "peer", "model", "d_sae", "k", "batch", "layer", "context", "threads", "round")


def configured(a: argparse.Namespace) -> RunConfig:
    """Return the validated config of our run."""
    overrides = [
        f"model={a.model}",
        f"sae.d_sae={a.d_sae}",
        f"sae.k={a.k}",
        f"sites.layer={a.layer}",
        f"data.context_length={a.context}",
        f"data.batch_size={a.batch}",
        f"data.buffer_tokens={BUFFER}",
        f"data.micro_batch={max(1, 4096 // a.context)}",
        "data.cache=off",
        "tokens=1000000",
        "normalise.sample_tokens=4096",
        "evaluation.every_n_steps=0",
        "progress=false",
        *a.set,
    ]
    return validate(command.plain(command.compose("train", overrides)))


def rounds_of(a: argparse.Namespace) -> int:
    """Return the steps between two refills of the buffer."""
    return max(1, BUFFER // 2 // a.batch)


def ours(a: argparse.Namespace) -> dict[str, Any]:
    """Train ours and return tokens a second over whole rounds of the buffer."""
    from sae_lightning.build import build_run

    with tempfile.TemporaryDirectory() as folder:
        run = build_run(configured(a), Path(folder) / "run")
        one = rounds_of(a)
        source = StampedSource(run.data.source, (1 + a.refills) * one)  # pyright: ignore[reportArgumentType]
        fit_until_measured(run, source)
    seconds = sum(source.seconds()[one:])
    return {"seconds": seconds, "tokens_per_s": a.batch * one * a.refills / seconds, "peak_mib": peak_resident_mib()}


def write_windows(a: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Write the token windows that all read, int64 [n, context]; return where the language model lies."""
    from sae_lightning.build.models import build_lm
    from sae_lightning.build.text import samples
    from sae_lightning.lm.embedded import smollm2_folder

    config = configured(a)
    assert config.lm is not None
    train, _ = samples(config, build_lm(config.lm, config.seed))
    wanted = min(len(train), -(-(2 + a.refills) * BUFFER // a.context))
    np.save(path, train.batch(np.arange(wanted)).tokens.numpy())
    return {"lm": str(smollm2_folder()), "windows": wanted}


def lm_alone(a: argparse.Namespace) -> dict[str, Any]:
    """Run the first layers of the model in plain Hugging Face over the windows; return tokens a second."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(a.lm, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    inner = model.model
    inner.layers = inner.layers[: a.layer + 1]
    windows = np.load(a.windows, mmap_mode="r")
    n = max(1, 4096 // a.context)
    batches = itertools.cycle(torch.from_numpy(np.array(windows[i : i + n])) for i in range(0, len(windows) - n + 1, n))
    passes = -(-a.refills * (BUFFER // 2) // (n * a.context))
    with torch.inference_mode():
        inner(next(batches), use_cache=False)
        begun = time.perf_counter()
        for _ in range(passes):
            inner(next(batches), use_cache=False)
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "tokens_per_s": passes * n * a.context / seconds, "peak_mib": peak_resident_mib()}


def render(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: a table for each machine and configuration; ratios are taken within rounds."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in KEY if key not in ("peer", "round")), []).append(line)
    parts = []
    for members in groups.values():
        first = members[0]
        rate = {(line["peer"], line["round"]): line["tokens_per_s"] for line in members if "tokens_per_s" in line}
        rows: list[list[object]] = []
        for name in dict.fromkeys(line["peer"] for line in members):
            mine = {number: value for (peer, number), value in rate.items() if peer == name}
            if not mine:
                said = next(line["error"] for line in members if line["peer"] == name)
                rows.append([name, None, None, f"does not run: {said[:100]}"])
                continue
            found = [rate[OURS, number] / value for number, value in mine.items() if (OURS, number) in rate]
            peak = statistics.median(
                line["peak_mib"] for line in members if line["peer"] == name and "peak_mib" in line
            )
            ratio = f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})" if found else None
            rows.append(
                [name, f"{statistics.median(mine.values()):,.0f}", f"{peak:,.0f}", "1" if name == OURS else ratio]
            )
        parts.append(
            f"**SmolLM2 to layer {first['layer']} + {first['model']}**: d_sae {first['d_sae']:,}, k {first['k']}, "
            f"batch {first['batch']:,}, context {first['context']:,}, {first['where']}"
        )
        parts.append(markdown(("", "tokens/s", "peak MiB", "ours is faster by"), rows))
    return "\n\n".join(parts) + "\n"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("topk", "batch_topk", "matryoshka"), default="batch_topk")
    p.add_argument("--d-sae", type=int, default=4608)
    p.add_argument("--k", type=int, default=32)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--layer", type=int, default=9)
    p.add_argument("--context", type=int, default=128)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--refills", type=int, default=6, help="refills of the buffer that are timed, 8,192 rows each")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--peers-python", help="python of the environment with the peers; left out: ours and the LM alone")
    p.add_argument("--out", type=Path, help="folder of the results")
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of ours")
    p.add_argument("--quick", action="store_true", help="layer 1, one refill, one round")
    p.add_argument("--part", choices=("ours", "windows", "lm"), help=argparse.SUPPRESS)
    p.add_argument("--windows", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--lm", help=argparse.SUPPRESS)
    return p


def main() -> None:
    p = parser()
    a = p.parse_args()
    if a.quick:
        a.layer, a.refills, a.rounds = 1, 1, 1
    for name in ("d_sae", "k", "batch", "context", "threads", "refills", "rounds"):
        if getattr(a, name) < 1:
            p.error(f"--{name.replace('_', '-')} {getattr(a, name)}: must be at least 1")
    if a.batch > BUFFER // 2:
        p.error(f"--batch {a.batch}: must be at most {BUFFER // 2}, half the buffer")
    if a.part:
        _part(a)
        return
    if a.out is None:
        p.error("--out: is needed; give the folder of the results")
    results, where = Results(a.out / "end_to_end.jsonl", KEY), describe("cpu", a.threads)
    shape = {
        name: getattr(a, name) for name in ("model", "d_sae", "k", "batch", "layer", "context", "threads", "refills")
    }
    arguments = [text for name, value in shape.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    own = [sys.executable, "-m", "experiments.benchmarks.end_to_end", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        windows = str(Path(folder) / "windows.npy")
        lm = run_json([*own, "--part", "windows", "--windows", windows], a.threads)["lm"]
        commands = {
            OURS: [*own, "--part", "ours", "--set", *a.set],
            LM: [*own, "--part", "lm", "--windows", windows, "--lm", lm],
        }
        for name in PEERS if a.peers_python else ():
            base = [a.peers_python, "-W", "ignore", "-m", "experiments.benchmarks.peers.end_to_end"]
            commands[name] = [*base, "--peer", name, "--windows", windows, "--lm", lm, *arguments]
        for number in range(a.rounds):
            for name in turned([*commands], number):
                entry = {key: shape[key] for key in KEY if key in shape}
                entry |= {"where": where, "peer": name, "round": number}
                if not results.failed(entry):
                    results.measure(entry, lambda name=name: run_json(commands[name], a.threads))
    page = render(results.lines)
    (a.out / "end_to_end.md").write_text(page, encoding="utf-8")
    print(page)


def _part(a: argparse.Namespace) -> None:
    torch.set_num_threads(a.threads)
    torch.set_flush_denormal(True)
    command.quiet_warnings()
    logging.basicConfig(level=logging.ERROR)
    match a.part:
        case "ours":
            found = ours(a)
        case "windows":
            found = write_windows(a, a.windows)
        case _:
            found = lm_alone(a)
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    main()
