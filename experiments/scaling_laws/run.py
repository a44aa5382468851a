"""Train the sweep: widths x k at one budget in one bank, then the widths at smaller budgets.

python -m experiments.scaling_laws.run outputs/scaling_laws
python -m sae_lightning.sweep outputs/scaling_laws
"""

import argparse
import time
from pathlib import Path

from experiments.banks import run_bank

WIDTHS = (144, 288, 576, 1152, 2304, 4608)
KS = (4, 8, 16, 32, 64)
BUDGETS = (50_000, 100_000, 200_000)
TOKENS = 400_000
SETTINGS = ["model=topk", "evaluation.every_n_steps=0", "evaluation.downstream_tokens=0", "callbacks.density=null"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="overrides of every bank, e.g. lm=gpt2 sites.layer=6")
    options = parser.parse_intermixed_args()
    started = time.monotonic()
    settings = [*SETTINGS, *options.settings]
    grid = [{"sae.d_sae": width, "sae.k": k} for width in WIDTHS for k in KS]
    # The largest budget first: it keeps the activations that the smaller ones begin with.
    run_bank(options.out / f"tokens-{TOKENS}", grid, [*settings, f"tokens={TOKENS}"])
    for tokens in reversed(BUDGETS):
        lanes = [{"sae.d_sae": width, "sae.k": 32} for width in WIDTHS]
        run_bank(options.out / f"tokens-{tokens}", lanes, [*settings, f"tokens={tokens}"])
    print(f"{len(grid) + len(BUDGETS) * len(WIDTHS)} SAEs in {(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    main()
