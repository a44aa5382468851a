"""The data of every feature's page, some features to a file, written as they are read: memory does not grow."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core.progress import Advance
from sae_lightning.reports.site.data_files import Vocabulary, numbered, rounded, write_data
from sae_lightning.reports.site.reading import Extent, Reading
from sae_lightning.store import FeatureStore
from sae_lightning.studies.analysis.contexts import Example, examples_of

#: Features in one file.
PER_FILE = 32
_BINS = 40
_LABEL = 3
# Strongest tokens among which different ones are looked for.
_LOOKED_AT = 64

#: Of this reading's features, what lies nearest in another: (number among the siblings, features, cosines).
Closest = tuple[int, NDArray[np.integer], NDArray[np.floating]]


def top_tokens(reading: Reading, extent: Extent, advance: Advance) -> list[list[str]]:
    """Return for each feature the different tokens among its strongest examples, strongest first, as they are written.

    Tokens that differ in case or in spaces around them count once; a feature that never fires has none.
    """
    store = reading.store
    found: list[list[str]] = []
    for feature in range(store.d_sae):
        different: dict[str, str] = {}
        if store.stats.count[feature]:
            for token in store.top_tokens(feature, _LOOKED_AT).tokens.tolist():
                (piece,) = store.pieces(token, token + 1)
                if piece:
                    different.setdefault(piece.strip().casefold() or piece, piece)
                if len(different) == extent.tokens:
                    break
        found.append(list(different.values()))
        advance(1, "top tokens")
    return found


def write_features(
    folder: Path,
    reading: Reading,
    extent: Extent,
    tops: Sequence[Sequence[str]],
    closest: Sequence[Closest],
    advance: Advance,
) -> NDArray[np.bool_]:
    """Write ``data/features/``, ``PER_FILE`` features to a file. Returns which texts examples are from [n_texts]."""
    store = reading.store
    used = np.zeros(store.n_texts, bool)
    sections = _Sections(reading, extent, tops, closest)
    for first in range(0, store.d_sae, PER_FILE):
        vocabulary = Vocabulary()
        found = []
        for feature in range(first, min(first + PER_FILE, store.d_sae)):
            found.append({**_fired(store, feature, extent, vocabulary, used), **sections.of(feature, vocabulary)})
            advance(1, "examples")
        said = sections.said_of_related(found, vocabulary)
        data = {"vocabulary": vocabulary.texts, "features": found, "said": said}
        write_data(folder, numbered("features", first // PER_FILE), data)
    return used


def _fired(
    store: FeatureStore, feature: int, extent: Extent, vocabulary: Vocabulary, used: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return where and how strongly a feature fires: numbers, histogram, examples."""
    count = int(store.stats.count[feature])
    values = store.column(feature)[1]
    least, highest, bins = _histogram(values)
    shown = examples_of(
        store,
        feature,
        top=extent.top,
        lowest=extent.lowest,
        bins=extent.bins,
        per_bin=extent.per_bin,
        before=extent.before,
        after=extent.after,
    )

    def packed(examples: Iterable[Example]) -> list[Any]:
        return [_packed(store, feature, example, vocabulary, used) for example in examples]

    slices: dict[tuple[float, float], list[Example]] = {}
    for example in shown.quantiles:
        assert example.low is not None
        assert example.high is not None
        slices.setdefault((example.low, example.high), []).append(example)
    return {
        "count": count,
        "density": rounded(count / max(1, store.n_kept)),
        "mean": rounded(float(store.stats.total[feature]) / count) if count else None,
        "most": rounded(float(np.abs(values).max(initial=0.0))),
        "least": least,
        "highest": highest,
        "bins": bins,
        "top": packed(shown.top),
        "slices": [
            {"low": rounded(low), "high": rounded(high), "examples": packed(examples)}
            for (low, high), examples in slices.items()
        ],
        "lowest": packed(shown.lowest),
    }


def _histogram(values: NDArray[np.float32]) -> tuple[float | int | None, float | int | None, list[int]]:
    """Return (where the first bin begins, where the last one ends, counts of equal bins); 0 is always within."""
    if not len(values):
        return 0, 0, []
    least, highest = min(0.0, float(values.min())), max(0.0, float(values.max()))
    bins = int(np.clip(np.sqrt(len(values)), 8, _BINS))
    counts, _ = np.histogram(values, bins, (least, max(highest, least + 1e-12)))
    return rounded(least), rounded(highest), counts.tolist()


def _packed(
    store: FeatureStore, feature: int, example: Example, vocabulary: Vocabulary, used: NDArray[np.bool_]
) -> list[Any]:
    """Return an example as examples.js unpacks it."""
    context = example.context
    first, last = context.first, context.last
    used[context.text] = True
    activations = store.values_at(feature, first, last)
    active = np.flatnonzero(activations)
    sparse = [item for i in active.tolist() for item in (i, rounded(float(activations[i])))]
    pieces = [vocabulary[piece] for piece in store.pieces(first, last)]
    masked = np.flatnonzero(~store.kept[first:last]).tolist()
    row = [rounded(example.value), context.text, context.position, example.token - first, pieces, sparse]
    return [*row, masked] if masked else row


class _Sections:
    """What studies found of each feature, as its page shows it; what did not run is empty."""

    def __init__(
        self, reading: Reading, extent: Extent, tops: Sequence[Sequence[str]], closest: Sequence[Closest]
    ) -> None:
        self.extent, self.tops, self.closest = extent, tops, closest
        self.neighbour = reading.array("similarity", "neighbour")
        self.near = near_values(reading)
        self.partner = [
            reading.array("cooccurrence", f"partner{word}")
            for word in ("", "_count", "_jaccard", "_pmi", "_correlation")
        ]
        self.effects = [
            reading.array("logit_effect", name)
            for name in ("promoted", "promoted_logit", "suppressed", "suppressed_logit")
        ]
        self.neuron = [
            reading.array("neuron_correlation", name) for name in ("neuron_layer", "neuron", "neuron_correlation")
        ]
        self.clusters = reading.array("clusters", "cluster")
        self.members = {} if self.clusters is None else _members(self.clusters)
        self.token_text = reading.token_text
        self.explanations = reading.explanations

    def of(self, feature: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Return a feature's sections."""

        def label(other: int) -> list[int]:
            return [vocabulary[text] for text in self.tops[other][:_LABEL]]

        def related(numbers: NDArray | None, values: Sequence[NDArray | None]) -> list[list[Any]]:
            if numbers is None:
                return []
            return [
                [int(other), label(other), *(None if v is None else rounded(float(v[feature, j])) for v in values)]
                for j, other in enumerate(numbers[feature, : self.extent.related].tolist())
                if other >= 0
            ]

        return {
            "tokens": [vocabulary[text] for text in self.tops[feature]],
            "neighbours": related(self.neighbour, [self.near]),
            "partners": related(self.partner[0], self.partner[1:]),
            "logits": self._logits(feature, vocabulary),
            "explanations": [
                [one.text, one.by, [[name, rounded(value)] for name, value in one.scores.items()]]
                for one in self.explanations.get(feature, ())
            ],
            "cluster": self._cluster(feature),
            "neuron": self._neuron(feature),
            "closest": [
                [sibling, int(index[feature]), rounded(float(cosine[feature]))]
                for sibling, index, cosine in self.closest
                if index[feature] >= 0
            ],
        }

    def said_of_related(self, found: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> dict[str, int]:
        """Return what the neighbours and partners of some features are said to mean, by feature."""
        related = {row[0] for one in found for row in (*one["neighbours"], *one["partners"])}
        return {
            str(feature): vocabulary[self.explanations[feature][0].text]
            for feature in sorted(related)
            if self.explanations.get(feature)
        }

    def _logits(self, feature: int, vocabulary: Vocabulary) -> list[list[list[Any]]] | None:
        if any(effect is None for effect in self.effects):
            return None
        rows = [effect[feature].tolist() for effect in self.effects if effect is not None]
        return [
            [[vocabulary[self.token_text(token)] for token in tokens], [rounded(value) for value in values]]
            for tokens, values in (rows[:2], rows[2:])
        ]

    def _cluster(self, feature: int) -> list[Any] | None:
        if self.clusters is None or (number := int(self.clusters[feature])) < 0:
            return None
        members = self.members[number]
        others = [int(i) for i in members[: self.extent.members + 1] if i != feature][: self.extent.members]
        return [number, len(members), others]

    def _neuron(self, feature: int) -> list[Any] | None:
        layer, neuron, r = self.neuron
        if layer is None or neuron is None or r is None or neuron[feature] < 0:
            return None
        return [int(layer[feature]), int(neuron[feature]), rounded(float(r[feature]))]


def near_values(reading: Reading) -> NDArray | None:
    """Return how near each neighbour is [F, n], whatever it was measured by."""
    measure = near_measure(reading)
    return None if measure is None else reading.array("similarity", f"neighbour_{measure}")


def near_measure(reading: Reading) -> str | None:
    """Return what neighbours were measured by: cosine, dot or euclidean; None where they were not."""
    arrays = reading.results["similarity"].arrays if "similarity" in reading.results else {}
    return next((m for m in ("cosine", "dot", "euclidean") if f"neighbour_{m}" in arrays), None)


def _members(cluster: NDArray[np.integer]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(cluster, kind="stable")
    numbers, starts = np.unique(cluster[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {int(number): part for number, part in zip(numbers, parts, strict=True) if number >= 0}
