"""Repeat an L1 practitioner's log and show where its collapse came from.

python -m experiments.l1_collapse.run outputs/l1_collapse
"""

import argparse
from pathlib import Path
from typing import Any

from experiments.banks import run_bank, table

BATCH, D_IN = 512, 576
# The log's conventions: inputs of variance 1 an element, element-mean MSE, L1 summed over the batch, free decoder.
SETTINGS = [
    "model=standard",
    "tokens=200000",
    f"data.batch_size={BATCH}",
    "normalise=rms",
    "scheduler=constant",
    "optimizer.clip=null",
    "sae.d_sae=1024",
    "init.scheme=kaiming",
    "init.decoder_norm=0.5",
    "losses.reconstruction.reduction=element_mean",
    "losses.l1.reduction=batch_sum",
    "losses.l1.decoder_norm=plain",
    "losses.l1.coefficient.kind=constant",
    "evaluation.every_n_steps=100",
    "evaluation.downstream_tokens=0",
    "callbacks.density=null",
]


def lane(name: str, l1: float, lr: float = 1e-3, **more: Any) -> dict[str, Any]:
    return {"name": name, "sae.l1": l1, "optimizer.lr": lr, **more}


LANES = [
    *(lane(f"l1={value:g}", value) for value in (0.0, 1e-9, 1e-5, 1e-4, 1e-3, 1.0, 5.0, 10.0)),
    *(lane(f"l1=0,lr={lr:g}", 0.0, lr) for lr in (1e-2, 1e-4)),
    lane("l1=0.0001,leaky", 1e-4, **{"sae.negative_slope": 0.01}),
    lane(
        "l1=0.0001,two-phase", 1e-4,
        **{"losses.l1.coefficient.kind": "two_phase", "losses.l1.coefficient.warmup": 0.5},
    ),
    # The same data with the coefficient meant per token, which is what the papers' 5 is.
    lane("per-token l1=5", 5.0 / (BATCH * D_IN)),
    lane("per-token l1=5,lr=1e-4", 5.0 / (BATCH * D_IN), 1e-4),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="overrides of the bank")
    options = parser.parse_intermixed_args()
    records = run_bank(options.out / "bank", LANES, [*SETTINGS, *options.settings])
    by_name = {record["lane"]: record for record in records}
    rows = []
    for wanted, record in zip(LANES, records, strict=True):
        assert by_name[record["lane"]] is record
        rows.append(
            {
                "run": wanted["name"],
                "lambda": wanted["sae.l1"],
                "lambda_eff": wanted["sae.l1"] * BATCH * D_IN,
                "lr": record["lr"],
                "fvu": record.get("fvu"),
                "l0": record.get("l0"),
                "active %": None if "l0" not in record else 100 * record["l0"] / record["d_sae"],
                "dead %": None if record.get("dead") is None else 100 * record["dead"],
            }
        )
    text = table(rows, ["run", "lambda", "lambda_eff", "lr", "fvu", "l0", "active %", "dead %"])
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
