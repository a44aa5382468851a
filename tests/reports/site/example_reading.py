"""A reading with something in every section: a planted store, and results written by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_lightning.core import Estimate
from sae_lightning.reports.site import Comparison, Reading
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.study import Result, Table
from tests.reports.example_evaluation import evaluation
from tests.store.planted import HOSTILE, WORDS, planted_store

EVIL = "</script><img src=x onerror=\"document.title='broken'\">\u2028\u202e & <b>bold</b>"
FEATURES = 70


def texts(n: int = 120, seed: int = 0) -> list[str]:
    """Return texts of a few sentences; the first is hostile, and a word of it is in some of the others."""
    rng = np.random.default_rng(seed)
    many = [" ".join(rng.choice(WORDS, size=int(rng.integers(12, 60)))) + f" {i}.\n" for i in range(n)]
    return [HOSTILE, *many]


def results(reading_store: Any, seed: int = 0, label: str = "") -> dict[str, Result]:
    """Return a result of every study of the analysis; numbers are random, forms are the studies' own."""
    rng = np.random.default_rng(seed)
    f = reading_store.d_sae
    stats = reading_store.stats
    density = np.asarray(stats.count) / reading_store.n_kept
    counts, edges = np.histogram(np.log10(density[density > 0]), 30)
    bars = tuple((float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True))

    def estimate(value: float) -> Estimate:
        return Estimate(value, value * 0.96, value * 1.05, 12_345)

    others = rng.integers(0, f, (f, 10)).astype(np.int32)
    near = -np.sort(-rng.random((f, 10)), axis=1).astype(np.float32)
    partner = others.copy()
    partner[:, 7:] = -1
    cluster = np.where(rng.random(f) < 0.2, -1, rng.integers(0, 6, f)).astype(np.int32)
    ids = rng.integers(0, 256, (f, 10)).astype(np.int32)
    where = (rng.normal(size=(f, 2)) + 4 * (cluster[:, None] % 3)).astype(np.float32)
    where[np.asarray(stats.count) == 0] = np.nan
    dead = np.flatnonzero(np.asarray(stats.count) == 0).tolist()
    return {
        "density": Result(
            {"l0": estimate(7.2), "dead": estimate(0.014), "rare": estimate(0.1), "dense_share": estimate(0.03)},
            {
                "density_histogram": Table(("from", "to", "features"), bars, "log10 of the share of tokens"),
                "l0_histogram": Table(("from", "to", "tokens"), tuple((i, i + 1, 40 - i) for i in range(20)), "active"),
                "dead": Table(("feature",), tuple((i,) for i in dead), f"{len(dead)} features never fire"),
                "rare": Table(("feature", "count", "density"), ((3, 2, 1e-4), (5, 4, 2e-4)), "rare ones"),
            },
            (f"a note {label}".strip(),),
            arrays={"density": density, "count": np.asarray(stats.count)},
        ),
        "similarity": Result(
            {"nearest_cosine": estimate(0.41)},
            {"nearest": Table(("feature", "neighbour", "cosine"), ((1, 2, 0.99), (3, 4, 0.98)), "nearest pairs")},
            arrays={"neighbour": others, "neighbour_cosine": near},
        ),
        "cooccurrence": Result(
            {},
            {"pairs": Table(("feature", "partner", "count", "jaccard"), ((1, 2, 30, 0.4),), "pairs")},
            arrays={
                "partner": partner,
                "partner_count": rng.integers(10, 500, partner.shape),
                "partner_jaccard": near * 0.6,
                "partner_pmi": near * 5,
                "partner_correlation": near * 0.7,
            },
        ),
        "clusters": Result(
            {},
            {
                "clusters": Table(("cluster", "size", "features", "cohesion"), ((0, 9, "1, 2, 3", 0.4),), "clusters"),
                "shared_examples": Table(
                    ("cluster", "token", "before", "piece", "after", "active"),
                    ((0, 17, f"before {label}", "pi\nece", "after", 5),),
                    "where clusters fire",
                ),
            },
            arrays={"cluster": cluster},
        ),
        "logit_effect": Result(
            {},
            arrays={
                "promoted": ids,
                "promoted_logit": near * 2,
                "suppressed": ids[:, ::-1].copy(),
                "suppressed_logit": -near,
            },
        ),
        "neuron_correlation": Result(
            {"neuron_correlation_mean": estimate(0.3)},
            arrays={
                "neuron_layer": rng.integers(0, 9, f).astype(np.int32),
                "neuron": rng.integers(0, 1536, f).astype(np.int32),
                "neuron_correlation": (rng.random(f) - 0.3).astype(np.float32),
            },
        ),
        "neighbourhood": Result({}, arrays={"map": where}),
        "completeness": Result(
            {"covered": estimate(0.62)},
            {"concepts": Table(("concept", "feature", "covered"), ((f"Camden {label}", 4, True),), "concepts")},
        ),
        "colouring": coloured(reading_store),
        "later_study": Result({}, {"found": Table(("what", "value"), ((f"x {label}", 1.5),), f"found {label}")}),
    }


def coloured(store: Any, features: Sequence[int] = (0, 4, 7)) -> Result:
    """Return the colouring of the store's first two texts: what the store has of them, in the study's form."""
    tokens, cells = [], []
    for text in (0, 1):
        first, last = (int(i) for i in store.text_starts[text : text + 2])
        for i, piece in enumerate(store.pieces(first, last)):
            kept = bool(store.kept[first + i])
            tokens.append((text, i, piece, kept))
            for feature in features:
                if value := float(store.values_at(feature, first, last)[i]):
                    cells.append((text, i, piece, kept, feature, value))
    largest = tuple((f, float(store.stats.largest[f]), 2.0, 5) for f in features)
    return Result(
        {},
        {
            "colouring": Table(("text", "token", "piece", "kept", "feature", "value"), tuple(cells)),
            "tokens": Table(("text", "token", "piece", "kept"), tuple(tokens)),
            "features": Table(("feature", "full", "largest", "tokens"), largest),
        },
    )


def explanations(label: str = "") -> dict[int, tuple[Explanation, ...]]:
    """Return explanations of a few features, of one by two explainers."""
    judge = f"judge {label}".strip()
    return {
        0: (Explanation(f"Zebras of every kind {label}".strip(), judge, {"detection accuracy": 0.75, "rubric": 1.5}),),
        5: (Explanation("anchors\x1b[31m and\u202eropes\nof ships", judge, {"detection accuracy": 0.9}),),
        7: (
            Explanation("names of rivers", judge, {f"detection accuracy{label}": 0.5}),
            Explanation("[ri] x3; · [ver]", "n2g", {"f1": 0.25}),
        ),
        12: (Explanation("nobody scored this", judge),),
    }


def token_text(token: int) -> str:
    return chr(token)


def example_reading(
    folder: Path,
    name: str = "planted",
    *,
    features: int = FEATURES,
    seed: int = 0,
    label: str = "",
    documents: Sequence[str] | None = None,
) -> Reading:
    """Return a reading. label: stands wherever a text can come from outside."""
    store = planted_store(
        folder, texts=documents or texts(seed=seed), d_sae=features, density=0.05, seed=seed, name=f"store{seed}"
    ).store
    steps = np.arange(0, 5000, 5)
    return Reading(
        name=name,
        store=store,
        results=results(store, seed, label),
        evaluation=evaluation(1, label),
        curves={
            "loss/total": (steps, np.exp(-steps / 800) + 0.2),
            f"heldout/fvu{label}": (steps[::20], 0.2 + 1 / (steps[::20] + 2)),
        },
        explanations=explanations(label),
        notes={0: f"fires everywhere {label}".strip(), 7: "a note that was given"},
        token_text=token_text,
    )


def example_comparison(readings: Sequence[Reading], seed: int = 0) -> Comparison:
    """Return what joins readings: random closest features, and results of comparative studies."""
    rng = np.random.default_rng(seed)
    closest = {
        (a.name, b.name): (
            rng.integers(-1, b.store.d_sae, a.store.d_sae).astype(np.int32),
            rng.random(a.store.d_sae).astype(np.float32),
        )
        for a in readings
        for b in readings
        if a is not b
    }
    maps = {f"map/{r.name}": rng.normal(size=(r.store.d_sae, 2)).astype(np.float32) for r in readings}
    a, b = readings[0].name, readings[1].name
    splits = Table((f"feature of {a}", f"features of {b}", "cosine"), ((3, "5, 6, 7", 0.8),), f"{a} to {b}")
    return Comparison(closest, {"neighbourhoods": Result({}, arrays=maps), "splitting": Result({}, {"splits": splits})})
