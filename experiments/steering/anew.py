"""Is a text's perplexity that of the tokens it was written in, or of those that its characters are cut into?

    python -m experiments.steering.anew outputs/steering

Reads what ``run`` wrote and prints, of every feature and strength, how many texts have the same tokens when they are
cut anew, and the number of tokens and the perplexity of both.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.banks import table
from sae_lightning.lm import FrozenLM

_AT_ONCE = 8


def surprise(lm: FrozenLM, texts: Sequence[tuple[list[int], int]]) -> float:
    """Return the sum of the cross-entropies of texts, each (ids, number of the first that counts)."""
    total = 0.0
    for first in range(0, len(texts), _AT_ONCE):
        some = texts[first : first + _AT_ONCE]
        tokens = torch.zeros(len(some), max(len(ids) for ids, _ in some), dtype=torch.int64)
        for row, (ids, _) in enumerate(some):
            tokens[row, : len(ids)] = torch.tensor(ids)
        nats = lm.loss(lm.logits(tokens), tokens).double()
        total += sum(float(nats[row, begin - 1 : len(ids) - 1].sum()) for row, (ids, begin) in enumerate(some))
    return total


def line(lm: FrozenLM, prompts: list[str], samples: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return one row: the samples as they were written and as their text is cut."""

    def cut(text: str) -> list[int]:
        return list(lm.tokenizer(text, add_special_tokens=False)["input_ids"])

    texts, same, written, nats = [], 0, 0, 0.0
    for sample in samples:
        prompt = cut(prompts[sample["prompt"]])
        ids = cut(prompts[sample["prompt"]] + sample["text"])
        same += ids == [*prompt, *sample["token_ids"]]
        # The text may go on inside the prompt's last token.
        begin = next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))
        texts.append(([lm.separator_id or 0, *ids], begin + 1))
        written, nats = written + len(sample["nats"]), nats + sum(sample["nats"])
    anew = sum(len(ids) - begin for ids, begin in texts)
    return {
        "same tokens": f"{same}/{len(samples)}",
        "tokens": f"{written:,} -> {anew:,}",
        "perplexity": f"{math.exp(nats / written):,.0f} -> {math.exp(surprise(lm, texts) / anew):,.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    steering = json.loads((parser.parse_args().out / "dose" / "steering.json").read_text(encoding="utf-8"))
    lm = FrozenLM.load(steering["lm"]["name"], dtype=steering["lm"]["dtype"])
    rows = []
    for group in steering["groups"]:
        for variant in group["variants"]:
            row = {"feature": str(group["features"][0]), "strength": variant["name"]}
            rows.append(row | line(lm, steering["prompts"], variant["samples"]))
    print(table(rows, list(rows[0])))


if __name__ == "__main__":
    main()
