"""Ours and every peer alternately: one optimiser step of each architecture, as a Markdown table with ratios.

    python -m experiments.benchmarks.table --peers-python PEERS/bin/python --out outputs/bench/cpu
    python -m experiments.benchmarks.table --peers-python PEERS/bin/python --out outputs/bench/gpu --device cuda \\
        --dtype bfloat16 --batch 8192 --models topk --d-sae 32768
    python -m experiments.benchmarks.table --peers-python PEERS/bin/python --out outputs/bench/quick --quick

PEERS is an environment with sae-lens 6.54.12, eai-sparsify 1.3.3 and dictionary-learning 0.1.0. In each round every
entry runs once in a process of its own, in an order that is turned by one from round to round, and ratios are taken
within a round. What --out has already is not run again: a stopped table goes on. Writes steps.jsonl and steps.md.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.machine import describe
from experiments.benchmarks.peers.libraries import names_for
from experiments.benchmarks.process import run_json
from experiments.benchmarks.results import Results, markdown
from experiments.benchmarks.shape import MODELS, UNLIMITED, add_rounds, arguments_of, parse_rounds, step_parser

OURS = "sae_lightning"
KEY = ("where", "peer", "model", "d_in", "d_sae", "k", "batch", "threads", "device", "dtype", "start", "round")
QUICK = {"d_in": 128, "d_sae": 2048, "k": 16, "batch": 256, "rounds": 2}


def entries(model: str, with_peers: bool) -> list[str]:
    """Return who is measured for a model."""
    return [OURS, *(names_for(model) if with_peers else [])]


def configurations(models: Sequence[str], starts: Sequence[str]) -> list[tuple[str, str]]:
    """Return (model, start) pairs: the start makes a difference to models without a k alone."""
    return [(model, start) for model in models for start in (starts if model in UNLIMITED else ["k"])]


def turned(names: Sequence[str], by: int) -> list[str]:
    """Return the names beginning with another one each round, so that none always follows the same."""
    by %= len(names)
    return [*names[by:], *names[:by]]


def ratios(lines: Sequence[Mapping[str, Any]], peer: str) -> list[float]:
    """Return ``peer's seconds / our seconds`` of each round that has both."""
    seconds = {(line["peer"], line["round"]): line["seconds"] for line in lines if "seconds" in line}
    rounds = sorted({number for _, number in seconds})
    return [
        seconds[peer, number] / seconds[OURS, number]
        for number in rounds
        if (peer, number) in seconds and (OURS, number) in seconds
    ]


def rows(lines: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Return the table's rows of one model and start: medians over rounds, fastest first, ours at the top."""
    out: list[list[object]] = []
    for name in dict.fromkeys(line["peer"] for line in lines):
        good = [line for line in lines if line["peer"] == name and "seconds" in line]
        if not good:
            said = next(line["error"] for line in lines if line["peer"] == name)
            out.append([name, None, None, None, None, None, None, f"does not run: {said[:100]}", 0])
            continue
        middle = {
            key: statistics.median(line[key] for line in good)
            for key in ("seconds", "mean_seconds", "activations_per_s", "peak_mib", "over_base_mib", "l0")
        }
        found = ratios(lines, name)
        shown = f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})" if found else None
        out.append(
            [
                name,
                f"{middle['seconds']:.4g}",
                f"{middle['mean_seconds']:.4g}",
                f"{middle['activations_per_s']:,.0f}",
                f"{middle['peak_mib']:,.0f}",
                f"{middle['over_base_mib']:,.0f}",
                f"{middle['l0']:.1f}",
                "1" if name == OURS else shown,
                len(good),
            ]
        )
    return sorted(out, key=lambda row: (row[0] != OURS, row[1] is None, float(str(row[1])) if row[1] else 0.0))


def fastest(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a line about the fastest peer of a model, or None where no peer ran."""
    peers = {line["peer"] for line in lines if "seconds" in line and line["peer"] != OURS}
    medians = {name: statistics.median(found) for name in peers if (found := ratios(lines, name))}
    if not medians:
        return None
    name = min(medians, key=lambda n: medians[n])
    return f"Ours is {medians[name]:.2f} x the fastest peer ({name})."


COLUMNS = ("", "s a step", "mean", "activations/s", "peak MiB", "over imports", "l0", "ours is faster by", "rounds")


def render(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page: one table for each machine, model, start and shape."""
    parts: list[str] = []
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(tuple(line[k] for k in KEY if k not in ("peer", "round")), []).append(line)
    for members in groups.values():
        first = members[0]
        start = f", start {first['start']}" if first["model"] in UNLIMITED else ""
        own = next((line["settings"] for line in members if line.get("settings")), [])
        parts.append(
            f"**{first['model']}**{start}: d_in {first['d_in']}, d_sae {first['d_sae']:,}, k {first['k']}, batch "
            f"{first['batch']:,}, {first['dtype']}, {first['where']}"
            + (f"; settings of ours: {' '.join(own)}" if own else "")
        )
        parts.append(markdown(COLUMNS, rows(members)))
        if said := fastest(members):
            parts.append(said)
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = step_parser(__doc__, steps=20, warmup=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="in place of --model")
    parser.add_argument("--starts", nargs="+", choices=("k", "dense"), default=["k"], help="in place of --start")
    parser.add_argument("--peers-python", help="python of the environment with the peers; left out: ours alone")
    parser.add_argument("--peer-steps", type=int, default=5, help="timed steps of a peer, whose steps are alike")
    add_rounds(parser, 5, f"a small shape and two rounds: {QUICK}")
    a = parse_rounds(parser, QUICK)
    results = Results(a.out / "steps.jsonl", KEY)
    where = describe(a.device, a.threads)
    for number in range(a.rounds):
        for model, start in configurations(a.models, a.starts):
            one = argparse.Namespace(**{**vars(a), "model": model, "start": start})
            for name in turned(entries(model, a.peers_python is not None), number):
                entry = {key: getattr(one, key) for key in KEY[2:-1]}
                entry |= {"where": where, "peer": name, "round": number}
                if not results.failed(entry):
                    results.measure(entry, lambda name=name, one=one: _one(name, one))
    page = render(results.lines)
    (a.out / "steps.md").write_text(page, encoding="utf-8")
    print(page)


def _one(name: str, a: Any) -> dict[str, Any]:
    if name == OURS:
        return run_json([sys.executable, "-m", "experiments.benchmarks.step", *arguments_of(a), *a.set], a.threads)
    arguments = [*arguments_of(a, without=("steps",)), "--steps", str(a.peer_steps), "--peer", name]
    return run_json([a.peers_python, "-W", "ignore", "-m", "experiments.benchmarks.peers.step", *arguments], a.threads)


if __name__ == "__main__":
    main()
