"""How well attribution tells exact ablation, and first-order influence the exact one, over prompts."""

import argparse
import json
from pathlib import Path

import numpy as np

from sae_lightning.build.asking import open_asked
from sae_lightning.config import AsksSAE, validate
from sae_lightning.core import derive_seed
from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.studies import Result, Subject
from sae_lightning.studies.search.attribution import AttributionSearch
from sae_lightning.studies.search.influence import InfluenceSearch
from sae_lightning.studies.shares import share

#: Prompt, what comes next, what might have.
PROMPTS = (
    ("The capital of France is", "Paris", "London"),
    ("The opposite of hot is", "cold", "warm"),
    ("Barack Obama was the president of the United", "States", "Kingdom"),
    ("She put the key in the", "lock", "river"),
    ("The doctor told the patient to take her", "medicine", "car"),
    ("The keys to the cabinet", "are", "is"),
    ("After the heavy rain, the river began to", "rise", "burn"),
    ("The company's shares fell by ten per", "cent", "year"),
    ("The football team won the match by two goals to", "one", "him"),
    ("When Mary and John went to the store, John gave a drink to", "Mary", "John"),
    ("The prime minister resigned after losing the", "election", "dinner"),
    ("Police said that the man was arrested on suspicion of", "murder", "music"),
)
#: Prompt, what is wanted.
WANTED = (
    ("I am a", "bridge"),
    ("The news today is about", "football"),
    ("My favourite food is", "fish"),
    ("He works as a", "doctor"),
    ("The most important problem is", "climate change"),
)

#: What is run with far more candidates than usual, to see what the filter misses.
FILTERED, MANY = ("My favourite food is", "fish"), 1000


def pooled(
    results: list[Result], columns: tuple[str, str], first: int | None = None, seed: int = 0
) -> dict[str, list[float | None]]:
    """Return the share of equal signs over the first features of all prompts: Clopper and Pearson's interval, which
    takes features of one prompt as independent, and that of a bootstrap over prompts, which does not.
    """
    hits, sizes = [], []
    for result in results:
        table = result.tables["features"]
        rows = table.rows[:first]
        a, b = (np.array([row[table.columns.index(name)] for row in rows], float) for name in columns)
        hits.append(int((np.sign(a) == np.sign(b)).sum()))
        sizes.append(len(a))
    k, n = np.array(hits, float), np.array(sizes, float)
    one = share(sum(hits), sum(sizes))
    weights = bootstrap_weights(len(n), 2000, derive_seed(seed, "experiments", "search")).numpy()
    assert one.value is not None
    by_prompt = interval(one.value, (weights @ k) / (weights @ n), len(n)) or (None, None)
    return {"share": [one.value, one.low, one.high], "by_prompt": list(by_prompt), "n": [sum(sizes)]}


def main() -> None:
    """Run both over the prompts and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=20)
    options = parser.parse_args()
    asked = open_asked(validate({"store": options.store, "progress": False}, AsksSAE))
    subject = Subject(asked.reader.sae, asked.reader.lm, store=asked.store, reader=asked.reader)
    found = {}
    for keep_error in (True, False):
        results = []
        for prompt, target, against in PROMPTS:
            study = AttributionSearch(prompt, target, against, options.n, keep_error, show_progress=False)
            results.append(study.run(subject))
        each = [
            {"prompt": prompt, "note": r.notes[0], **{k: v.value for k, v in r.estimates.items()}}
            for (prompt, _, _), r in zip(PROMPTS, results, strict=True)
        ]
        name = "attribution, error kept" if keep_error else "attribution, error dropped"
        columns = ("score", "ablation")
        found[name] = {
            "pooled": pooled(results, columns),
            "first 5": pooled(results, columns, 5),
            "first 10": pooled(results, columns, 10),
            "each": each,
        }
        options.out.write_text(json.dumps(found, indent=2))
    for strength in (0.1, 1.0):
        results = []
        for prompt, want in WANTED:
            study = InfluenceSearch(prompt, want, strength, candidates=100, n=100, show_progress=False)
            results.append(study.run(subject))
        each = [
            {
                "prompt": p,
                "want": w,
                **{k: v.value for k, v in r.estimates.items()},
                "top": r.tables["features"].rows[:5],
            }
            for (p, w), r in zip(WANTED, results, strict=True)
        ]
        found[f"influence, strength {strength}"] = {"pooled": pooled(results, ("first_order", "score")), "each": each}
        options.out.write_text(json.dumps(found, indent=2))
    prompt, want = FILTERED
    study = InfluenceSearch(prompt, want, 1.0, candidates=MANY, n=MANY, show_progress=False)
    rows = study.run(subject).tables["features"].rows
    by_filter = sorted(rows, key=lambda row: -row[2])  # type: ignore[operator] - a number
    kept = {row[0] for row in by_filter[:100]}
    found["filter"] = {"best 20 among the filter's 100": sum(row[0] in kept for row in rows[:20]), "of": len(rows)}
    options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
