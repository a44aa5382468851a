"""One configuration of a step: the arguments that ours and the peers' share, and the JSON line both print."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODELS = ("topk", "batch_topk", "jumprelu", "standard", "gated", "matryoshka")
# Nothing limits how many features of these are active: as they start, half of them are, in every library.
UNLIMITED = ("standard", "jumprelu", "gated")
# Shares of d_sae that Matryoshka's prefixes end at (conf/model/matryoshka.yaml: groups of 1/32, 1/16, 1/8, 1/4, rest).
PREFIXES = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
# Small enough that no weight moves: what is timed stays in the state that it was put in.
STILL = 1e-9


def step_parser(description: str | None, *, steps: int, warmup: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments of a step."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=MODELS, default="topk")
    p.add_argument("--d-in", type=int, default=768)
    p.add_argument("--d-sae", type=int, default=16384)
    p.add_argument("--k", type=int, default=32)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--steps", type=int, default=steps, help="steps that are timed")
    p.add_argument("--warmup", type=int, default=warmup, help="steps before them")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: mixed precision")
    p.add_argument(
        "--start",
        choices=["k", "dense"],
        default="k",
        help="standard, jumprelu, gated: thresholds set so that k features a row are active, or as initialised",
    )
    return p


def add_rounds(p: argparse.ArgumentParser, rounds: int, quick: str) -> None:
    """Add the arguments of a benchmark that measures steps in rounds. quick: what ``--quick`` does."""
    p.add_argument("--rounds", type=int, default=rounds)
    p.add_argument("--out", type=Path, required=True, help="folder of the results")
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of ours")
    p.add_argument("--quick", action="store_true", help=quick)


def parse_rounds(p: argparse.ArgumentParser, quick: Mapping[str, Any]) -> argparse.Namespace:
    """Return the parsed arguments, with those of ``quick`` in force where it is asked for; checked."""
    a = p.parse_args()
    if a.quick:
        vars(a).update(quick)
    check(p, a)
    if a.rounds < 1:
        p.error(f"--rounds {a.rounds}: must be at least 1")
    return a


def check(p: argparse.ArgumentParser, a: argparse.Namespace) -> None:
    """End with one line (exit code 2) where the arguments contradict each other."""
    for name in ("d_in", "d_sae", "k", "batch", "steps", "threads"):
        if getattr(a, name) < 1:
            p.error(f"--{name.replace('_', '-')} {getattr(a, name)}: must be at least 1")
    if a.warmup < 1:
        p.error(f"--warmup {a.warmup}: must be at least 1; the first step also builds what later ones use")
    if a.k >= a.d_sae:
        p.error(f"--k {a.k}: must be smaller than --d-sae {a.d_sae}; lower k or raise d_sae")


def arguments_of(a: argparse.Namespace, *, without: Sequence[str] = ()) -> list[str]:
    """Return a configuration as the command line that makes it."""
    names = [action for action in vars(a) if action in _SHAPE and action not in without]
    return [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(a, name)))]


_SHAPE = ("model", "d_in", "d_sae", "k", "batch", "steps", "warmup", "threads", "device", "dtype", "start")


def record(
    peer: str, a: argparse.Namespace, seconds: Sequence[float], *, base_mib: float, peak_mib: float, **more: Any
) -> dict[str, Any]:
    """Return what is printed of a configuration: its arguments, then its figures.

    seconds: of every timed step; ``seconds`` is their median and ``mean_seconds`` their mean (ours: with the steps that
    log). peak_mib: the most that the process held; base_mib: what it held after imports, with the rows, before the
    model was built.
    """
    median = statistics.median(seconds)
    return {
        "peer": peer,
        **{name: getattr(a, name) for name in _SHAPE},
        "seconds": round(median, 6),
        "mean_seconds": round(statistics.fmean(seconds), 6),
        "activations_per_s": round(a.batch / median),
        "peak_mib": round(peak_mib),
        "base_mib": round(base_mib),
        "over_base_mib": round(peak_mib - base_mib),
        **more,
    }
