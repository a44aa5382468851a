"""Where features whose meaning a reader has written down come among all, for a prompt about that meaning."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sae_lightning.build.asking import open_asked
from sae_lightning.config import AsksSAE, validate
from sae_lightning.studies import Subject
from sae_lightning.studies.search.prompt import PromptSearch
from sae_lightning.studies.shares import share

#: Feature, named in experiments/reading_features, and a prompt written from its name before any was tried.
KNOWN = (
    (2971, "a law on the rights of transgender people"),
    (422, "the streets were full of rubbish and plastic bags"),
    (482, "the single currency and the eurozone crisis"),
    (2632, "warmer seas are melting the glaciers"),
    (2044, "doctors said that he was seriously ill"),
    (1487, "they served roast lamb and a chocolate dessert"),
    (306, "people buy health insurance under Obamacare"),
    (3883, "violent protests broke out in the capital"),
    (2726, "it cost about $84.7 million"),
    (4510, "he was arrested, police said."),
    (151, "a resolution of the United Nations"),
    (1183, "the firm reported higher annual profits"),
    (1953, "a speech by Benjamin Netanyahu"),
    (2118, "it can hold up to ten people"),
    (2236, "the banks of the River Thames"),
    (2357, "plans for the future"),
    (3070, "a total of nine people"),
    (3209, "a company in Japan"),
    (3625, "you have to keep going"),
    (637, "more details will follow"),
)


def ranks(subject: Subject, feature: int, prompt: str) -> dict[str, int | None]:
    """Return a feature's place by each score, from 1 on; None where it is not active on the prompt."""
    out: dict[str, int | None] = {}
    for token in ("max", "mean"):
        study = PromptSearch(prompt, token, n=subject.sae.d_sae, show_progress=False)
        rows: list[Any] = list(study.run(subject).tables["features"].rows)
        by = {f"surprise, {token}": 1}
        if token == "max":
            by |= {"activation, max": 2, "share of the largest, max": 3}
        for name, column in by.items():
            order = [row[0] for row in sorted(rows, key=lambda row: -abs(row[column]))]
            out[name] = order.index(feature) + 1 if feature in order else None
    return out


def main() -> None:
    """Rank every known feature and write its places."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    asked = open_asked(validate({"store": options.store, "progress": False}, AsksSAE))
    subject = Subject(asked.reader.sae, asked.reader.lm, store=asked.store, reader=asked.reader)
    found = [{"feature": feature, "prompt": prompt, **ranks(subject, feature, prompt)} for feature, prompt in KNOWN]
    within: dict[str, dict[int, Any]] = {}
    for name in (name for name in found[0] if name not in ("feature", "prompt")):
        places: list[Any] = [one[name] for one in found]
        hits = {n: sum(place is not None and place <= n for place in places) for n in (1, 5, 20)}
        within[name] = {n: asdict(share(k, len(found))) for n, k in hits.items()}
    options.out.write_text(json.dumps({"within": within, "each": found}, indent=2))


if __name__ == "__main__":
    main()
