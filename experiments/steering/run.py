"""Five features of a quickstart SAE, found by search, pushed at eleven strengths: what does SmolLM2 then write?

    python -m experiments.steering.run outputs/steering store=STORE

Searches for each feature, runs the steer command once for all of them, and writes the tables of README.md from its
steering.json into the folder. STORE: a feature store of the SAE.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.banks import table
from sae_lightning.studies.steering.concept import all_words, concept_words

#: What each feature is searched by, its number in the SAE of README.md, and the words that tell its concept. They were
#: fixed before any text was written.
FEATURES: dict[int, tuple[str, list[str]]] = {
    2945: (
        "He was arrested by the police",
        ["police", "policeman", "policemen", "officer", "officers", "detective", "detectives"],
    ),
    2876: ("The president of Russia", ["Russia", "Russian", "Russians", "Moscow", "Kremlin", "Putin"]),
    4548: (
        "We went to see a film",
        ["film", "films", "movie", "movies", "cinema", "actor", "actress", "director"],
    ),
    2735: (
        "All day there was heavy rain",
        ["rain", "rains", "raining", "rainy", "snow", "storm", "storms", "flood", "floods", "flooding", "weather"],
    ),
    4319: (
        "The members of the royal",
        ["royal", "royals", "king", "queen", "prince", "princess", "palace", "kingdom", "duke", "duchess", "majesty"],
    ),
}
DOSE = (-10, -5, -2, 0, 1, 1.5, 2, 3, 5, 10)
#: Figures of the tables, and how many digits they get.
FIGURES = {"words": 2, "perplexity": 0, "activation": 3, "repetition": 2}


def command(module: str, *settings: str) -> None:
    """Run a command of the package."""
    subprocess.run([sys.executable, "-m", f"sae_lightning.{module}", *settings], check=True)


def steer(out: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Return what steering.json holds, made unless it is there."""
    kept = out / "dose" / "steering.json"
    if not kept.is_file():
        concept = ",".join(f"{feature}:[{','.join(words)}]" for feature, (_, words) in FEATURES.items())
        command(
            "steer",
            f"dose=[{','.join(map(str, DOSE))}]",
            f"features=[{','.join(map(str, FEATURES))}]",
            f"concept={{{concept}}}",
            "n=8",
            "max_tokens=40",
            f"out={kept.parent}",
            *settings,
        )
    return json.loads(kept.read_text(encoding="utf-8"))


def names(steering: Mapping[str, Any]) -> list[str]:
    """Return the variants' names, what was not pushed first."""
    return [variant["name"] for variant in steering["groups"][0]["variants"]]


def estimate(steering: Mapping[str, Any], figure: str, feature: int, name: str) -> dict[str, Any]:
    """Return one figure of one feature at one strength."""
    return steering["dose"]["estimates"][f"steered_{figure}/{feature}/{name}"]


def said(one: Mapping[str, Any], digits: int) -> str:
    """Return a figure with its interval."""
    if one["value"] is None:
        return "-"
    limits = "" if one["low"] is None else f" [{one['low']:,.{digits}f}, {one['high']:,.{digits}f}]"
    return f"{one['value']:,.{digits}f}{limits}"


def doses(steering: Mapping[str, Any], figure: str, digits: int) -> str:
    """Return one figure's table: a row a strength, a column a feature."""
    columns = {feature: f"{feature} {words[0]}" for feature, (_, words) in FEATURES.items()}
    rows = [
        {"strength": name, **{c: said(estimate(steering, figure, f, name), digits) for f, c in columns.items()}}
        for name in names(steering)
    ]
    return table(rows, ["strength", *columns.values()])


def crossed(steering: Mapping[str, Any], name: str) -> str:
    """Return, of the texts under each feature at one strength, how many in 1,000 words are each concept's."""
    rows = []
    for group in steering["groups"]:
        samples = next(v for v in group["variants"] if v["name"] == name)["samples"]
        total = sum(all_words(sample["text"]) for sample in samples)
        row = {"pushed": str(group["features"][0])}
        for _, words in FEATURES.values():
            hits = sum(_hits(steering, sample, words) for sample in samples)
            row[words[0]] = f"{1000 * hits / total:.1f}"
        rows.append(row)
    return table(rows, ["pushed", *(words[0] for _, words in FEATURES.values())])


def _hits(steering: Mapping[str, Any], sample: Mapping[str, Any], words: Sequence[str]) -> int:
    prompt = steering["prompts"][sample["prompt"]]
    return concept_words(prompt + sample["text"], words, len(prompt))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="settings of search and steer: store=STORE at least")
    options = parser.parse_intermixed_args()
    out = options.out.resolve()
    for feature, (prompt, _) in FEATURES.items():
        print(f"feature {feature}:")
        command("search", f'prompt="{prompt}"', "n=3", *options.settings)
    steering = steer(out, options.settings)
    parts = [f"## {figure}\n\n{doses(steering, figure, digits)}" for figure, digits in FIGURES.items()]
    parts += [f"## words at {name}\n\n{crossed(steering, name)}" for name in ("as is", "1x", "2x")]
    (out / "tables.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
