"""From a stretch of text to the pattern in it: what of it a unit needs to be as active, and what may be anything."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from sae_lightning.studies.autointerp.explainers.patterns import WILD, Pattern
from sae_lightning.studies.autointerp.explainers.unit_reads import Reads
from sae_lightning.studies.autointerp.records import Stretch

# Suffixes of up to so many tokens are tried at once; then of twice as many, and so on.
_FIRST_ROUND = 4


@dataclass(frozen=True)
class Suffix:
    """The tokens of a stretch up to the one that the unit fires on.

    activation: the unit's there in the corpus. alone: where nothing but these tokens is read; None where nobody has.
    """

    token_ids: Int[NDArray, "m"]
    pieces: tuple[str, ...]
    activation: float
    alone: float | None = None

    @classmethod
    def of(cls, stretch: Stretch) -> "Suffix":
        end = stretch.at + 1
        return cls(
            np.asarray(stretch.token_ids[:end], np.int64), stretch.pieces[:end], float(stretch.values[stretch.at])
        )

    def last(self, n: int, alone: float) -> "Suffix":
        """Return its last n tokens, and what the unit does on them alone."""
        return Suffix(self.token_ids[-n:], self.pieces[-n:], self.activation, alone)

    def share(self, activation: float) -> float:
        """Return how much of what it does alone an activation is, at most all of it."""
        assert self.alone
        return min(1.0, activation / self.alone)


def shortest(reads: Reads, suffixes: Sequence[Suffix], keep: float) -> list[Suffix | None]:
    """Return of each suffix the shortest of its own that, read alone, gives at least ``keep`` of the activation.

    None where not even the whole gives that: what the unit needs lies before it.
    """
    found: list[Suffix | None] = [None] * len(suffixes)
    low, high = 0, _FIRST_ROUND
    left = list(range(len(suffixes)))
    while left:
        asked = [(i, n) for i in left for n in range(low + 1, min(high, len(suffixes[i].token_ids)) + 1)]
        values = reads([suffixes[i].token_ids[-n:] for i, n in asked]) if asked else []
        for (i, n), value in zip(asked, values, strict=True):
            if found[i] is None and value[-1] >= keep * suffixes[i].activation:
                found[i] = suffixes[i].last(n, float(value[-1]))
        left = [i for i in left if found[i] is None and len(suffixes[i].token_ids) > high]
        low, high = high, 2 * high
    return found


def importance(reads: Reads, suffixes: Sequence[Suffix], others: Int[NDArray, "k"]) -> list[NDArray[np.float64]]:
    """Return of each token its importance ``1 - a' / a``, at least 0, for suffixes as ``shortest`` returns them.

    a': activation on the last token after this one has been replaced, the mean over the replacements in ``others``
    (each counted as a at most). a: that of the suffix read alone.
    """
    asked = [
        _with(one.token_ids, [j], others[k:])
        for one in suffixes
        for j in range(len(one.token_ids))
        for k in range(len(others))
    ]
    values = iter(reads(asked))
    out = []
    for one in suffixes:
        kept = np.array([[one.share(float(next(values)[-1])) for _ in others] for _ in one.token_ids])
        out.append(1 - kept.mean(1))
    return out


def with_wildcards(
    reads: Reads,
    suffixes: Sequence[Suffix],
    important: Sequence[NDArray[np.float64]],
    others: Int[NDArray, "k"],
    threshold: float,
    keep: float,
) -> list[Pattern]:
    """Return each suffix as a pattern: tokens of an importance below ``threshold`` are wildcards.

    As far as they may be so together: with all wildcards replaced, ``keep`` of the activation must be left in the mean
    over the replacements. Where it is not, the most important of them become literal again, as few as are needed.
    Wildcards that come first say no more than that the text does not begin there, and are left out.
    """
    orders = [np.argsort(-values, kind="stable") for values in important]
    literals = [int((values >= threshold).sum()) for values in important]
    loose: list[NDArray[np.int64]] = [order[len(order) :] for order in orders]
    left, step = list(range(len(suffixes))), 1
    while left:
        asked = [(i, n) for i in left for n in range(literals[i], min(literals[i] + step, len(orders[i])))]
        variants = [
            _with(suffixes[i].token_ids, orders[i][n:].tolist(), np.roll(others, k))
            for i, n in asked
            for k in range(len(others))
        ]
        read = iter(reads(variants) if variants else ())
        done = set()
        for i, n in asked:
            kept = np.mean([suffixes[i].share(float(next(read)[-1])) for _ in others])
            if i not in done and kept >= keep:
                loose[i] = orders[i][n:]
                done.add(i)
        literals = [n + step for n in literals]
        left = [i for i in left if i not in done and literals[i] < len(orders[i])]
        step *= 2
    return [_pattern(one, set(places.tolist())) for one, places in zip(suffixes, loose, strict=True)]


def _pattern(suffix: Suffix, loose: set[int]) -> Pattern:
    """Return a suffix with wildcards in some places, from its first literal token on."""
    n = len(suffix.token_ids)
    first = min((j for j in range(n) if j not in loose), default=n - 1)
    ids = tuple(WILD if j in loose else int(suffix.token_ids[j]) for j in range(first, n))
    pieces = tuple("" if j in loose else suffix.pieces[j] for j in range(first, n))
    return Pattern(ids, pieces, suffix.activation)


def _with(token_ids: NDArray[np.int64], places: Sequence[int], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the tokens with others, one after the other and again, in some places."""
    out = token_ids.copy()
    out[list(places)] = np.resize(others, len(places))
    return out
