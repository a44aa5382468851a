"""Dead features against the decoder's norm at the start, and against how the weights are drawn.

python -m experiments.dead_features_init_norm.run outputs/dead_features_init_norm
"""

import argparse
from pathlib import Path
from typing import Any

from experiments.banks import run_bank, table

NORMS = (0.03, 0.06, 0.1, 0.12, 0.14, 0.18, 0.3, 1.0)
SEEDS = (0, 1)
SETTINGS = [
    "model=standard",
    "tokens=200000",
    "sae.d_sae=1024",
    "evaluation.every_n_steps=0",
    "evaluation.downstream_tokens=0",
    "callbacks.density=null",
]
VARIANTS = {
    "kaiming, independent, 0.12": {"init.scheme": "kaiming", "init.decoder_norm": 0.12},
    "kaiming, transposed, as drawn": {"init.scheme": "kaiming_transpose", "init.decoder_norm": 1.414},
    "kaiming, transposed, decoder 0.12": {"init.scheme": "kaiming_transpose", "init.decoder_norm": 0.12},
    "kaiming, transposed, decoder 0.08": {"init.scheme": "kaiming_transpose", "init.decoder_norm": 0.08},
    "tied 0.12, decoder norm detached": {"init.decoder_norm": 0.12, "losses.l1.decoder_norm": "detached"},
}


def lanes() -> list[dict[str, Any]]:
    made = [
        {"name": f"tied-{norm:g}-seed{seed}", "init.decoder_norm": norm, "seed": seed}
        for norm in NORMS
        for seed in SEEDS
    ]
    return made + [{"name": f"{n}-{name}", **own} for n, (name, own) in enumerate(VARIANTS.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="overrides of the bank")
    options = parser.parse_intermixed_args()
    records = run_bank(options.out / "bank", lanes(), [*SETTINGS, *options.settings])
    rows = []
    for number, norm in enumerate(NORMS):
        own = records[number * len(SEEDS) : (number + 1) * len(SEEDS)]
        dead = [100 * record["dead"] for record in own]
        rows.append({"start": f"tied {norm:g}", **summary(own), "dead % by seed": ", ".join(f"{d:.1f}" for d in dead)})
    for name, record in zip(VARIANTS, records[len(NORMS) * len(SEEDS) :], strict=True):
        rows.append({"start": name, **summary([record]), "dead % by seed": f"{100 * record['dead']:.1f}"})
    text = table(rows, ["start", "dead %", "dead % by seed", "fvu", "l0"])
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def summary(records: list[dict[str, Any]]) -> dict[str, float]:
    def mean(key: str) -> float:
        return sum(record[key] for record in records) / len(records)

    return {"dead %": 100 * mean("dead"), "fvu": mean("fvu"), "l0": mean("l0")}


if __name__ == "__main__":
    main()
