"""How time a step and peak memory of ours grow with d_sae, batch and k, with fitted exponents.

    python -m experiments.benchmarks.growth --out outputs/bench/cpu
    python -m experiments.benchmarks.growth --out outputs/bench/quick --quick

Each point is a run through the Trainer in a process of its own, repeated in rounds; the tables show medians. Beside the
memory over what the imports hold stands its bound: 16 bytes a parameter (weight, gradient, two moments) and 1.5 times
the largest block of pre-activations. What --out has already is not run again. Writes growth.jsonl and growth.md.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.machine import describe
from experiments.benchmarks.power_law import fit
from experiments.benchmarks.process import run_json
from experiments.benchmarks.results import Results, markdown
from experiments.benchmarks.shape import add_rounds, arguments_of, parse_rounds, step_parser

KEY = ("where", "along", "model", "d_in", "d_sae", "k", "batch", "threads", "device", "dtype", "round")
SWEEPS = {
    "d_sae": [4096, 8192, 16384, 32768, 65536, 131072, 262144],
    "batch": [512, 1024, 2048, 4096, 8192],
    "k": [8, 16, 32, 64, 128, 256],
}
QUICK_SWEEPS = {"d_sae": [1024, 2048, 4096], "batch": [128, 256], "k": [8, 16]}
QUICK = {"d_in": 128, "d_sae": 1024, "k": 16, "batch": 256, "rounds": 1, "steps": 4, "warmup": 2}
# The exponent in d_sae is judged from here on: below, what does not grow with d_sae still shows.
JUDGED_FROM = 16384


def sweep_rows(along: str, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return the medians over rounds of each point of a sweep, in its order."""
    good = [line for line in lines if line["along"] == along and "seconds" in line]
    out = []
    for value in sorted({line[along] for line in good}):
        here = [line for line in good if line[along] == value]
        names = ("seconds", "activations_per_s", "peak_mib", "over_base_mib", "bound_mib")
        out.append({along: value, **{name: statistics.median(line[name] for line in here) for name in names}})
    return out


def exponents(along: str, rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return what is said of a sweep's exponents; nothing where it has fewer than two points."""
    said = []
    starts = [None, JUDGED_FROM] if along == "d_sae" else [None]
    for start in starts:
        points = [row for row in rows if start is None or row[along] >= start]
        if len(points) < 2:
            continue
        x = [row[along] for row in points]
        where = f"{along} {x[0]:,.0f} to {x[-1]:,.0f}"
        for name, what in (("seconds", "time a step"), ("over_base_mib", "memory over imports")):
            law = fit(x, [max(row[name], 1e-9) for row in points])
            spread = "" if math.isnan(law.spread) else f"standard error {law.spread:.3f}; "
            said.append(f"{what} ~ {along}^{law.exponent:.3f} ({spread}{where})")
    return said


def render(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: a table and its exponents for each machine and sweep."""
    parts = []
    for where in dict.fromkeys(line["where"] for line in lines):
        here = [line for line in lines if line["where"] == where]
        for model, along in dict.fromkeys((line["model"], line["along"]) for line in here):
            members = [line for line in here if (line["model"], line["along"]) == (model, along)]
            rows = sweep_rows(along, members)
            first = members[0]
            fixed = ", ".join(f"{name} {first[name]:,}" for name in ("d_in", *SWEEPS) if name != along)
            columns = (
                along,
                "s a step",
                "activations/s",
                "peak MiB",
                "over imports MiB",
                "bound MiB",
                "share of bound",
            )
            cells = [
                [
                    f"{row[along]:,.0f}",
                    f"{row['seconds']:.4g}",
                    f"{row['activations_per_s']:,.0f}",
                    f"{row['peak_mib']:,.0f}",
                    f"{row['over_base_mib']:,.0f}",
                    f"{row['bound_mib']:,.0f}",
                    f"{row['over_base_mib'] / row['bound_mib']:.2f}",
                ]
                for row in rows
            ]
            failed = [f"{along} {line[along]:,}: {line['error']}" for line in members if "error" in line]
            parts += [f"**{model}** along {along} ({fixed}, {first['dtype']}, {where})", markdown(columns, cells)]
            parts.append("\n".join(f"- {text}" for text in [*exponents(along, rows), *failed]))
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    parser = step_parser(__doc__, steps=6, warmup=2)
    parser.add_argument("--along", nargs="+", choices=[*SWEEPS], default=[*SWEEPS])
    parser.add_argument("--largest", type=int, help="leave out points of d_sae above this, where memory is short")
    add_rounds(parser, 3, f"few small points, one round: {QUICK_SWEEPS}")
    a = parse_rounds(parser, QUICK)
    sweeps = QUICK_SWEEPS if a.quick else SWEEPS
    results, where = Results(a.out / "growth.jsonl", KEY), describe(a.device, a.threads)
    for number in range(a.rounds):
        for along in a.along:
            for value in sweeps[along]:
                if along == "d_sae" and a.largest and value > a.largest:
                    continue
                one = argparse.Namespace(**{**vars(a), along: value})
                entry = {key: getattr(one, key) for key in KEY[2:-1]}
                entry |= {"where": where, "along": along, "round": number}
                if not results.failed(entry):
                    results.measure(entry, lambda one=one: _one(one))
    page = render(results.lines)
    (a.out / "growth.md").write_text(page, encoding="utf-8")
    print(page)


def _one(a: argparse.Namespace) -> dict[str, Any]:
    return run_json([sys.executable, "-m", "experiments.benchmarks.step", *arguments_of(a), *a.set], a.threads)


if __name__ == "__main__":
    main()
