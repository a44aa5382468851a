"""What steering.json holds, made up: a dose-response of some features, or one steered text."""

import math
from typing import Any

import numpy as np

STRENGTHS = (-10.0, -2.0, 0.0, 1.0, 5.0, 10.0)
FIGURES = ("activation", "fires", "words", "word_rate", "perplexity", "nats", "repetition", "distinct")
WORDS = [" river", " the", " a", " bridge", " of", ",", " golden", "\n", " and", " London"]


def sample(rng: np.random.Generator, prompt: int, number: int, strength: float, said: str = "") -> dict[str, Any]:
    """Return one sample of 12 tokens; said: a token of it."""
    pieces = [str(rng.choice(WORDS)) for _ in range(12)]
    if said:
        pieces[3] = said
    values = [[round(float(max(0.0, strength + rng.normal())), 3)] for _ in pieces]
    return {
        "prompt": prompt,
        "number": number,
        "text": "".join(pieces),
        "pieces": pieces,
        "token_ids": list(range(12)),
        "values": values,
        "kept": [True] * 11 + [False],
        "nats": [round(float(v), 3) for v in rng.exponential(3, 12)],
        "logprobs": [-1.5] * 12,
        "ended": number == 1,
    }


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value * 0.8, "high": value * 1.2, "tokens": 480}


def steering(n_features: int = 2, said: str = "", dose: bool = True) -> dict[str, Any]:
    """Return an example. said: a text that stands wherever a text from outside can."""
    rng = np.random.default_rng(0)
    prompts = ["I think that" + said, "Once"]
    features = [
        {"feature": 10 + i, "maximum": 8.0, "edit": "clamp 5x (40)", "concept": ["river" + said], "explanation": None}
        for i in range(n_features)
    ]
    names = [("as is", None), *((f"{s:g}x", s) for s in STRENGTHS)]
    if not dose:
        names = [("unsteered", None), ("reconstruction", None), ("steered", None)]
    estimates, groups, changes = {}, [], []
    for i in range(n_features if dose else 1):
        variants = []
        for name, strength in names:
            level = 0.0 if strength is None else strength
            samples = [sample(rng, p, k, level, said) for p in range(len(prompts)) for k in range(3)]
            variants.append({"name": name, "strength": strength, "samples": samples})
            up = 1 / (1 + math.exp(-level / 3 - i / 3))
            values = (up, up, up, up / 5, 20 * math.exp(abs(level) / 3), 3 + abs(level) / 3, up / 2, 1 - up / 2)
            for figure, value in zip(FIGURES, values, strict=True):
                estimates[f"steered_{figure}/{10 + i}/{name}"] = estimate(value)
            if strength is not None:
                changes.append([10 + i, name, strength, "nats", level / 3, level / 3 - 1, level / 3 + 1, 6])
        groups.append({"features": [10 + i] if dose else list(range(10, 10 + n_features)), "variants": variants})
    for one in [] if dose else groups[0]["variants"]:
        for each in one["samples"]:
            each["values"] = [row * n_features for row in each["values"]]
    columns = ["feature", "variant", "strength", "figure", "change", "low", "high", "samples"]
    result = {
        "estimates": estimates,
        "tables": {"changes": {"columns": columns, "rows": changes, "caption": "Change against as is"}},
        "notes": ["6 samples of at most 12 tokens a strength"],
    }
    return {
        "sae": {"name": "an sae" + said, "path": "/somewhere/export" + said},
        "lm": {"name": "smollm2" + said, "revision": None},
        "sites": {"read": ["blocks.9.hook_resid_post"], "write": ["blocks.9.hook_resid_post"]},
        "store": "/somewhere/store",
        "created": "2026-11-30T00:00:00",
        "seconds": 12.0,
        "settings": {"mode": "clamp", "temperature": 1.0, "top_p": 1.0, "seed": 0},
        "features": features,
        "prompts": prompts,
        "groups": groups,
        "dose": result if dose else None,
        "notes": ["a note" + said],
    }
