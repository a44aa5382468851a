"""The table of features as columns, and what each column is called."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sae_lightning.reports.site.data_files import Vocabulary, column, write_data
from sae_lightning.reports.site.features import near_measure, near_values
from sae_lightning.reports.site.reading import Extent, Reading

Kind = Literal["number", "percent", "tokens", "text", "note"]


@dataclass(frozen=True)
class Column:
    """A column: its key (also what a search names, ``density>0.01``), heading, kind and meaning.

    width: share of the table's width. first: the direction that a first click sorts in. minor: left out on a phone.
    also: further names that a search may use.
    """

    key: str
    label: str
    kind: Kind
    title: str
    width: float = 1.0
    first: Literal["up", "down"] = "down"
    minor: bool = True
    also: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        return asdict(self)


_FEATURE = Column("feature", "feature", "number", "number of the feature", 1.05, "up", False)
_EXPLANATION = Column("explanation", "explanation", "text", "what it is said to mean", 3.6, "up")
# A score's name that a heading has room for.
_SCORE = 9


def write_table(folder: Path, reading: Reading, extent: Extent, tops: Sequence[Sequence[str]]) -> list[Column]:
    """Write ``data/table.js`` and ``data/notes.js``; return the columns that there is something to show in."""
    numbers, named = _numbers(reading)
    lists = {"tokens": tops}
    promoted = reading.array("logit_effect", "promoted")
    if promoted is not None:
        texts = {i: reading.token_text(i) for i in np.unique(promoted[:, : extent.tokens]).tolist()}
        lists["promoted"] = [[texts[i] for i in row] for row in promoted[:, : extent.tokens].tolist()]
    words = {text for rows in lists.values() for row in rows for text in row}
    vocabulary = Vocabulary(sorted(words, key=_alphabetical))
    write_data(
        folder,
        "table",
        {
            "n": reading.store.d_sae,
            "vocabulary": vocabulary.texts,
            "columns": {key: column(values) for key, values in numbers.items()},
            "names": _names([_FEATURE, *named]),
            "texts": {_EXPLANATION.key: texts} if (texts := _explained(reading)) else {},
            "lists": {
                key: {"width": extent.tokens, "items": _flat(rows, extent.tokens, vocabulary)}
                for key, rows in lists.items()
            },
        },
    )
    write_data(folder, "notes", {str(feature): text for feature, text in sorted(reading.notes.items()) if text})
    explained = bool(reading.explanations)
    # Explanations take their room from the other columns of text.
    room = {"tokens": 2.8, "promoted": 2.2, "note": 1.6} if explained else {"tokens": 3.4, "promoted": 3.0, "note": 2.0}
    title = "different tokens among the strongest examples"
    tokens = Column("tokens", "top tokens", "tokens", title, room["tokens"], "up", False)
    last = Column("note", "note", "note", "notes given and written here", room["note"], "up")
    shown = [_FEATURE, tokens, *([_EXPLANATION] if explained else []), *named]
    if promoted is not None:
        title = "next tokens that it makes likelier"
        shown.append(Column("promoted", "promotes", "tokens", title, room["promoted"], "up"))
    return [*shown, last]


def _numbers(reading: Reading) -> tuple[dict[str, NDArray], list[Column]]:
    """Return the columns of numbers, all [d_sae], and their headings."""
    store = reading.store
    stats = store.stats
    count = np.asarray(stats.count, np.int64)
    fired = count > 0
    found: list[tuple[Column, NDArray]] = [
        (
            Column(
                "density",
                "active on",
                "percent",
                "share of tokens it is active on; bar: its logarithm",
                1.25,
                minor=False,
            ),
            count / max(1, store.n_kept),
        ),
        (Column("count", "tokens", "number", "tokens it is active on", also=("firings",)), count),
        (
            Column("largest", "largest", "number", "largest activation", minor=False),
            np.where(fired, stats.largest, np.nan),
        ),
        (
            Column("mean", "mean", "number", "mean activation where it is active"),
            np.where(fired, stats.total / np.maximum(count, 1), np.nan),
        ),
    ]
    near, measure = near_values(reading), near_measure(reading)
    if near is not None and measure is not None:
        title = f"{measure} of its decoder direction with that of its nearest neighbour"
        found.append((Column(measure, f"nearest {measure}", "number", title, 1.2), near[:, 0]))
    if (cluster := reading.array("clusters", "cluster")) is not None:
        values = np.where(cluster >= 0, cluster, np.nan)
        found.append(
            (Column("cluster", "cluster", "number", "cluster of features that fire together", 0.95, "up"), values)
        )
    if (r := reading.array("neuron_correlation", "neuron_correlation")) is not None:
        title = "largest |correlation| with a single neuron"
        found.append((Column("neuron", "neuron r", "number", title, 0.9, also=("r", "correlation")), np.abs(r)))
    if (score := _score(reading)) is not None:
        found.append(score)
    return {one.key: np.asarray(values) for one, values in found}, [one for one, _ in found]


def _explained(reading: Reading) -> dict[str, str]:
    """Return by feature the explanation to show."""
    return {str(feature): said[0].text for feature, said in sorted(reading.explanations.items()) if said}


def _score(reading: Reading) -> tuple[Column, NDArray] | None:
    """Return the column of the score that most explanations begin with; None where none has a score."""
    scores = {feature: said[0].scores for feature, said in reading.explanations.items() if said and said[0].scores}
    if not scores:
        return None
    ((name, _),) = Counter(next(iter(one)) for one in scores.values()).most_common(1)
    values = np.full(reading.store.d_sae, np.nan)
    for feature, one in scores.items():
        values[feature] = one.get(name, np.nan)
    label = name if len(name) <= _SCORE else "score"
    return Column("score", label, "number", f"how well the explanation holds: {name}", 0.85), values


def _names(columns: Sequence[Column]) -> dict[str, str]:
    """Return by every name that a search may use for a column of numbers, its key: keys before headings."""
    found = {one.key: one.key for one in columns}
    for one in columns:
        for name in (one.label, *one.also):
            found.setdefault(name.lower(), one.key)
    return found


def _alphabetical(text: str) -> tuple[str, str]:
    return text.strip().casefold(), text


def _flat(rows: Sequence[Sequence[str]], width: int, vocabulary: Vocabulary) -> list[int]:
    out = np.full((len(rows), width), -1, np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = [vocabulary[text] for text in row[:width]]
    return out.ravel().tolist()
