"""Units that fire on token patterns by construction, on made-up text; and their records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_lightning.studies.autointerp.explainers.natural import Natural
from sae_lightning.studies.autointerp.explainers.patterns import WILD
from sae_lightning.studies.autointerp.records import SILENT, Record, Stretch, Unit

VOCABULARY = 60
LEVELS = 5


@dataclass(frozen=True)
class Planted:
    """A unit that fires with ``strengths[i]`` on the last token of ``patterns[i]``, the strongest where several end."""

    patterns: tuple[tuple[int, ...], ...]
    strengths: tuple[float, ...]

    def __call__(self, texts: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        return [self.on(text) for text in texts]

    def on(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the activation on each token of a text: token by token, pattern by pattern."""
        out = np.zeros(len(ids), np.float32)
        for end in range(len(ids)):
            for pattern, strength in zip(self.patterns, self.strengths, strict=True):
                begin = end + 1 - len(pattern)
                if begin >= 0 and all(p in (WILD, int(i)) for p, i in zip(pattern, ids[begin : end + 1], strict=True)):
                    out[end] = max(out[end], strength)
        return out


def planted(rng: np.random.Generator) -> Planted:
    """Return a unit of one to three patterns of one to four tokens, wildcards between them or at the end."""
    patterns, strengths = [], []
    for _ in range(int(rng.integers(1, 4))):
        n = int(rng.integers(1, 5))
        ids = rng.integers(0, VOCABULARY, n)
        wild = rng.random(n) < 0.35
        wild[0] = False  # what comes first is a token: a wildcard there is one of "not at the beginning"
        if n >= 3:
            wild[int(rng.integers(1, n))] = False
        patterns.append(tuple(np.where(wild, WILD, ids).tolist()))
        strengths.append(float(rng.uniform(1, 4)))
    return Planted(tuple(patterns), tuple(strengths))


def texts(rng: np.random.Generator, unit: Planted, n: int = 150, length: int = 60) -> list[NDArray[np.int64]]:
    """Return random texts in which the unit's patterns stand now and then."""
    found = []
    for _ in range(n):
        ids = rng.integers(0, VOCABULARY, length)
        for pattern in unit.patterns:
            if rng.random() < 0.7:
                at = int(rng.integers(0, length - len(pattern)))
                fixed = np.array(pattern) != WILD
                ids[at : at + len(pattern)][fixed] = np.array(pattern)[fixed]
        found.append(ids)
    return found


def record(unit: Planted, many: list[NDArray[np.int64]], values: list[NDArray[np.float32]], around: int = 12) -> Record:
    """Return the record of a unit: eight strongest stretches, then up to eight of every level, drawn at random."""
    places = [(float(v[t]), text, t) for text, v in enumerate(values) for t in np.flatnonzero(v > 0).tolist()]
    places.sort(key=lambda place: (-place[0], place[1:]))
    largest = places[0][0]

    def stretch(value: float, text: int, t: int) -> Stretch:
        first, last = max(0, t - around), min(len(many[text]), t + around)
        ids = many[text][first:last]
        level = min(LEVELS - 1, int(np.ceil(value / largest * LEVELS)) - 1) if value > 0 else SILENT
        return Stretch(tuple(f" w{i}" for i in ids), ids, values[text][first:last], t - first, text, level)

    shown = [stretch(*place) for place in places[:8]]
    drawn = [stretch(*places[8 + i]) for i in np.random.default_rng(0).permutation(max(0, len(places) - 8))]
    for level in reversed(range(LEVELS)):
        shown += [one for one in drawn if one.level == level][:8]
    density = len(places) / sum(map(len, many))
    return Record(Unit("feature", 0), largest, density, tuple(shown), (), ())


def natural(unit: Planted, many: list[NDArray[np.int64]], values: list[NDArray[np.float32]] | None = None) -> Natural:
    values = unit(many) if values is None else values
    text = np.repeat(np.arange(len(many)), [len(one) for one in many])
    return Natural(np.concatenate(many), text, np.ones(len(text), bool), np.concatenate(values))
