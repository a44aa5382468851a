"""Token patterns of random features of a store, and how well they foretell firing, beside single tokens.

    python -m experiments.n2g.run outputs/stores/news out --features 50 --tokens 262144

Writes ``out/n2g.json``: every feature's patterns and scores, those of the baselines, and means over features.
"""

import argparse
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_lightning.core import Estimate, derive_seed
from sae_lightning.core.files import write_json
from sae_lightning.store import FeatureStore
from sae_lightning.studies.autointerp.explainers.foretelling import SCORES, foretold
from sae_lightning.studies.autointerp.explainers.n2g import N2G
from sae_lightning.studies.autointerp.explainers.natural import Natural
from sae_lightning.studies.autointerp.explainers.patterns import Pattern, Trie, described, merged
from sae_lightning.studies.autointerp.explainers.unit_reads import unit_reads
from sae_lightning.studies.autointerp.recording import FeatureFirings, Recipe, StretchRecorder
from sae_lightning.studies.autointerp.records import Record, Unit
from sae_lightning.studies.over_features import mean_estimate

logger = logging.getLogger(__name__)
_DRAWS = 1000


@dataclass(frozen=True)
class Way:
    """One way to foretell where a feature fires: its patterns, and how well they do."""

    trie: Trie
    scores: Mapping[str, Estimate]

    def json(self) -> dict[str, Any]:
        return {
            "patterns": self.trie.to_json(),
            "text": described(self.trie.patterns),
            "scores": {name: asdict(score) for name, score in self.scores.items()},
        }


def single_tokens(record: Record, n: int, most: int | None) -> Trie:
    """Return the tokens that fire in n stretches as patterns of one token, all or the most frequent."""
    tokens = Counter(int(one.token_ids[one.at]) for one in record.shown[:n])
    pieces = {int(one.token_ids[one.at]): one.pieces[one.at] for one in record.shown}
    return Trie(merged(Pattern((t,), (pieces[t],), record.largest, count) for t, count in tokens.most_common(most)))


def judged(trie: Trie, natural: Natural) -> Way:
    return Way(trie, foretold(natural, trie.predict(natural.token_ids, natural.begin), draws=_DRAWS))


def means(ways: Sequence[Mapping[str, Way]]) -> dict[str, Any]:
    """Return means over features of each way's scores and of differences; no prediction counts as a score of 0."""
    values = {
        way: {score: np.array([one[way].scores[score].value or 0.0 for one in ways]) for score in SCORES}
        for way in ways[0]
    }
    said = np.array([[one[way].scores["precision"].value is not None for way in ways[0]] for one in ways])
    out: dict[str, Any] = {
        way: {score: asdict(mean_estimate(v, "n2g", 0, _DRAWS)) for score, v in by.items()}
        for way, by in values.items()
    }
    for way, defined in zip(values, said.T, strict=True):
        precise = values[way]["precision"][defined]
        out[way]["precision where it says something"] = asdict(mean_estimate(precise, "n2g", 0, _DRAWS))
    for other in [way for way in values if way != "n2g"]:
        out[f"n2g - {other}"] = {
            score: asdict(mean_estimate(values["n2g"][score] - values[other][score], "n2g", 0, _DRAWS))
            for score in SCORES
        }
    return out


def chosen(store: FeatureStore, n_tokens: int, n: int, least: int, seed: int) -> list[int]:
    """Return n features drawn evenly from those that fire on at least ``least`` of the first tokens."""
    ends = np.asarray(store.csr.offsets[: n_tokens + 1])
    counts = np.bincount(store.csr.indices[: int(ends[-1])], minlength=store.d_sae)
    rng = np.random.default_rng(derive_seed(seed, "experiments", "n2g"))
    return sorted(rng.choice(np.flatnonzero(counts >= least), n, replace=False).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--stretches", type=int, default=16)
    parser.add_argument("--least", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    store = FeatureStore.open(a.store)
    reader = store.reader
    recipe = Recipe(top=4, from_level=3, held=1, silent=1, seed=a.seed)
    recorder = StretchRecorder(store, a.tokens, FeatureFirings(store, a.tokens), recipe)
    pool = np.setdiff1d(np.asarray(store.token_ids[: a.tokens], np.int64), reader.lm.special_ids)
    n2g = N2G(lambda unit: unit_reads(reader, unit), pool, stretches=a.stretches, seed=a.seed, show_progress=False)
    rows, ways = [], []
    for feature in chosen(store, a.tokens, a.features, a.least, a.seed):
        (record,) = recorder.records([Unit("feature", feature)])
        started = time.perf_counter()
        found = n2g.find(record)
        seconds = time.perf_counter() - started
        natural = recorder.scored(record.unit)
        one = {
            "n2g": judged(found.trie, natural),
            "all tokens": judged(single_tokens(record, a.stretches, None), natural),
            "one token": judged(single_tokens(record, a.stretches, 1), natural),
        }
        ways.append(one)
        said = {name: way.json() for name, way in one.items()}
        rows.append(
            {
                "feature": feature,
                "density": record.density,
                "stretches": found.stretches,
                "beyond": found.beyond,
                "seconds": seconds,
                **said,
            }
        )
        scores = {name: None if s.value is None else round(s.value, 3) for name, s in one["n2g"].scores.items()}
        logger.info("feature %d, %.1f s: %s %s", feature, seconds, scores, said["n2g"]["text"])
        # What is there is kept: a run that is stopped loses nothing.
        settings = {**vars(a), "store": Path(a.store).name, "out": a.out.name}
        write_json(a.out / "n2g.json", {"settings": settings, "features": rows, "means": means(ways)})


if __name__ == "__main__":
    main()
