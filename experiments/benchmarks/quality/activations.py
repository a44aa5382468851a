"""Write the activations that the quality table is measured on: SmolLM2 on news, train and held-out rows.

    python -m experiments.benchmarks.quality.activations --out FOLDER

blocks.9.hook_resid_post, 128-token windows, first positions and norms above 10 x the median dropped; float16 (exact
for the model's bfloat16 values of this size). Held-out rows come from documents that give no training row.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from sae_lightning.activations import Harvester, MaskPolicy, calibrate
from sae_lightning.core import Permutation, Sites, derive_seed
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import NewsSource, Windows, tokenized_store, tokenizer_hash

SITE = "blocks.9.hook_resid_post"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-rows", type=int, default=360_000)
    parser.add_argument("--heldout-rows", type=int, default=40_000)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    lm = FrozenLM.load("smollm2")
    name = tokenizer_hash(lm.tokenizer)
    store = tokenized_store(NewsSource(), lambda: lm.tokenizer, name, vocab_size=lm.vocab_size)
    windows = {
        split: Windows(store, split, context_length=128, separator_id=lm.separator_id) for split in ("train", "heldout")
    }
    sites = Sites((SITE,), (SITE,))
    policy = MaskPolicy(special_ids=lm.special_ids)
    mask = calibrate(Harvester(lm, sites, windows["train"], policy), 16_384, 0).mask
    for split, wanted in (("train", a.train_rows), ("heldout", a.heldout_rows)):
        harvester = Harvester(lm, sites, windows[split], mask)
        order = Permutation(len(windows[split]), derive_seed(0, split))
        rows = np.lib.format.open_memmap(a.out / f"{split}.npy", "w+", np.float16, (wanted, harvester.d_in))
        done = 0
        for start in range(0, len(windows[split]), 32):
            x = harvester.rows(order[np.arange(start, min(start + 32, len(windows[split])))]).x
            x = x[: wanted - done].to(torch.float16).numpy()
            rows[done : done + len(x)] = x
            done += len(x)
            print(f"\r{split}: {done:,} of {wanted:,} rows", end="", flush=True)
            if done == wanted:
                break
        print()
        if done < wanted:
            raise SystemExit(f"error: {split} has only {done} rows; ask for fewer")
        rows.flush()


if __name__ == "__main__":
    main()
