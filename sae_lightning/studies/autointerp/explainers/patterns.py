"""Token patterns with wildcards, and the trie that finds them in a text."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

#: In a pattern: one token of any kind.
WILD = -1
_DOT = "·"
_SYMBOLS = {"\n": "↵", "\r": "␍", "\t": "⇥", "": "▫"}


@dataclass(frozen=True)
class Pattern:
    """Tokens that lead up to one that a unit fires on, the last of them; ``WILD`` stands for one token of any kind.

    pieces: exact source characters of each token, "" of wildcards. activation: mean of the unit's activation over the
    stretches that it was found in. count: how many those are.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    activation: float
    count: int = 1

    @property
    def literals(self) -> int:
        """How many of the tokens are not wildcards."""
        return sum(token != WILD for token in self.token_ids)

    def __str__(self) -> str:
        """Return ``New [York]``: in brackets the token that the unit fires on; ``·`` is a wildcard."""
        *before, last = (
            f" {_DOT} " if token == WILD else _seen(piece)
            for token, piece in zip(self.token_ids, self.pieces, strict=True)
        )
        gap = " " if last.startswith(" ") else ""
        return " ".join(f"{''.join(before)}{gap}[{last.strip() or '␣'}]".split())


def merged(patterns: Iterable[Pattern]) -> tuple[Pattern, ...]:
    """Return the patterns with equal ones as one: found most often first, then the strongest."""
    found: dict[tuple[int, ...], list[Pattern]] = {}
    for pattern in patterns:
        found.setdefault(pattern.token_ids, []).append(pattern)
    out = []
    for ids, same in found.items():
        count = sum(one.count for one in same)
        mean = sum(one.activation * one.count for one in same) / count
        out.append(Pattern(ids, same[0].pieces, mean, count))
    return tuple(sorted(out, key=lambda one: (-one.count, -one.activation, one.token_ids)))


def described(patterns: Sequence[Pattern], shown: int = 8) -> str:
    """Return patterns in a line: ``New [York] x5; Los · [Angeles]``, those that were found most often first."""
    parts = [f"{pattern}{f' x{pattern.count}' if pattern.count > 1 else ''}" for pattern in patterns[:shown]]
    more = len(patterns) - shown
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


@dataclass
class _Node:
    """A place in the trie: where the tokens before lead to, and the pattern that ends here."""

    before: dict[int, "_Node"] = field(default_factory=dict)
    end: Pattern | None = None


class Trie:
    """Patterns from the token they fire on backwards.

    ``predict``: of all patterns that end on a token, the one with the most literal tokens says the activation there, of
    equal ones the longest; 0 where none does.
    """

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(patterns)
        self._root = _Node()
        for pattern in self.patterns:
            if not pattern.token_ids:
                raise ValueError("a pattern needs a token")
            node = self._root
            for token in reversed(pattern.token_ids):
                node = node.before.setdefault(token, _Node())
            node.end = pattern

    def predict(self, token_ids: Int[NDArray, "n"], begin: Int[NDArray, "n"] | None = None) -> Float[NDArray, "n"]:
        """Return the activation foretold for each token.

        begin: the place of the first token of each token's text, of several texts one after the other: no pattern
        reaches beyond it. None: they are one text.
        """
        n = len(token_ids)
        first = np.zeros(n, np.int64) if begin is None else np.asarray(begin, np.int64)
        out, best = np.zeros(n), np.full(n, -1, np.int64)
        self._walk(self._root, np.arange(n), 0, 0, np.asarray(token_ids, np.int64), first, out, best)
        return out

    def _walk(
        self,
        node: _Node,
        ends: NDArray[np.int64],
        depth: int,
        literals: int,
        ids: NDArray[np.int64],
        first: NDArray[np.int64],
        out: NDArray[np.float64],
        best: NDArray[np.int64],
    ) -> None:
        if node.end is not None:
            rank = literals * (1 << 20) + depth
            better = ends[best[ends] < rank]
            out[better], best[better] = node.end.activation, rank
        if not node.before:
            return
        inside = ends[ends - depth >= first[ends]]
        tokens = ids[inside - depth]
        for token, further in node.before.items():
            there = inside if token == WILD else inside[tokens == token]
            if len(there):
                self._walk(further, there, depth + 1, literals + (token != WILD), ids, first, out, best)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the patterns as plain values: token ids (-1: a wildcard), pieces, mean activation, count."""
        return [asdict(pattern) for pattern in self.patterns]


def _seen(piece: str) -> str:
    return _SYMBOLS[piece] if piece in _SYMBOLS else "".join(_SYMBOLS.get(c, c) for c in piece)
