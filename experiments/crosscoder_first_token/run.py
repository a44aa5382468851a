"""What the first token does to a crosscoder's training, and how the decoder's norm at the start matters.

    python -m experiments.crosscoder_first_token.run outputs/crosscoder_first_token
    python -m experiments.crosscoder_first_token.run out --seeds 0 lm=tiny sites.layers=[0,1] tokens=20000 sae.d_sae=64

Three banks that differ in which tokens are trained on: all, all but each window's first, and those without outliers
of the norm as well (the default mask). Their SAEs are then measured on the same held-out windows, on each of those sets
of tokens and on the first positions alone; gradient norms are read from the runs' logs.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.banks import run_bank, table

SEEDS = (0, 1)
NORMS = (0.03, 0.06, 0.1, 0.12, 0.14, 0.18, 0.3, 1.0)
SETTINGS = [
    "sites=crosscoder",
    "sites.layers=[8,9,10]",
    "model=standard",
    "tokens=200000",
    "sae.d_sae=1024",
    "evaluation.every_n_steps=0",
    "evaluation.downstream_tokens=0",
    "callbacks.density=null",
    "callbacks.checkpoints.best=false",
    "callbacks.metrics_log.every_n_steps=1",
]
#: Which tokens are trained on. Separators are left out everywhere.
MASKS = {
    "first in": ["data.mask_first_position=false", "data.mask_norm_multiple=null"],
    "first out": ["data.mask_first_position=true", "data.mask_norm_multiple=null"],
    "outliers out": ["data.mask_first_position=true", "data.mask_norm_multiple=10"],
}
KINDS = {
    "l1": {},
    "l1-detached": {"losses.l1.decoder_norm": "detached"},
    "l1-noclip": {"optimizer.clip": None},
    "batch_topk": {"model": "batch_topk"},
}
#: Conditions in which the norm at the start is swept.
SWEPT = ("first in", "first out")


def lanes(mask: str, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """Return a bank's lanes by name: kinds of training, and L1 from every norm."""
    made = {f"{kind}-s{seed}": {**own, "seed": seed} for kind, own in KINDS.items() for seed in seeds}
    if mask in SWEPT:
        made |= {f"init{n:g}-s{seed}": {"init.decoder_norm": n, "seed": seed} for n in NORMS for seed in seeds}
    return made


def folder_of(out: Path, mask: str) -> Path:
    return out / mask.replace(" ", "_")


def gradient_norms(lane: Path) -> np.ndarray:
    """Return the norm of a lane's gradients before clipping, at every step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(lane / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return np.array([point.value for point in events.Scalars("weights/grad_norm")])


def records(out: Path, mask: str, seeds: list[int], settings: list[str]) -> Iterator[dict[str, Any]]:
    """Train a condition's bank and yield what each of its lanes came to."""
    from experiments.crosscoder_first_token.measure import measure

    bank, wanted = folder_of(out, mask), lanes(mask, seeds)
    found = run_bank(
        bank, [{"name": n, **own} for n, own in wanted.items()], [*SETTINGS, *MASKS[mask], "seed=0", *settings]
    )
    for name, record in zip(wanted, found, strict=True):
        lane = bank / "lanes" / record["lane"]
        norms = gradient_norms(lane)
        late = norms[len(norms) // 10 :]  # after the warm-up of rate and penalty
        low, middle, high = np.quantile(late, [0.05, 0.5, 0.95])
        kept = lane / "measured.json"
        if not kept.is_file():
            kept.write_text(json.dumps(measure(lane)), encoding="utf-8")
        yield {
            "trained on": mask,
            "lane": name.rpartition("-s")[0],
            "seed": int(name.rpartition("-s")[2]),
            "grad": float(middle),
            "grad spread": float(high / low),
            "grad max": float(late.max() / middle),
            "dead %": 100 * record["dead"],
            "l0": record["l0"],
            **json.loads(kept.read_text(encoding="utf-8")),
        }


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one row an entry: means over its seeds."""
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    return rows[0] | {key: float(np.mean([row[key] for row in rows])) for key in numbers}


def tables(every: Sequence[Mapping[str, Any]]) -> str:
    """Return the two tables of README.md: the first token, and the norm at the start."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in every:
        groups.setdefault((row["lane"], row["trained on"]), []).append(dict(row))
    rows = [mean(group) for group in groups.values()]
    fvus = [key for key in rows[0] if key.startswith("fvu")]
    columns = ["lane", "trained on", "grad", "grad spread", "grad max", *fvus, "error at first %", "dead %", "l0"]
    first = sorted((r for r in rows if r["lane"] in KINDS), key=lambda r: list(KINDS).index(r["lane"]))
    swept = [r for r in rows if r["lane"].startswith("init")]
    second = ["lane", "trained on", "dead %", "fvu, first out", "fvu, outliers out", "l0"]
    return f"{table(first, columns)}\n\n{table(swept, second)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="overrides of every bank")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    options = parser.parse_intermixed_args()
    out = options.out.resolve()
    every = [row for mask in MASKS for row in records(out, mask, list(options.seeds), options.settings)]
    (out / "records.json").write_text(json.dumps(every, indent=1), encoding="utf-8")
    text = tables(every)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
