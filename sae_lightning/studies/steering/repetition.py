"""How much of a text says again what it has said."""

from collections.abc import Sequence


def repeated(token_ids: Sequence[int], n: int = 3) -> float | None:
    """Return ``1 - distinct / all`` of the n-grams of a text's tokens: 0 where none occurs twice, near 1 for a loop.

    An n-gram is n consecutive tokens; a text of m tokens has m - n + 1 of them. None for a text without any.
    """
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def distinct(token_ids: Sequence[int]) -> float | None:
    """Return distinct tokens over all tokens of a text, which falls with its length. None for an empty one."""
    return len(set(token_ids)) / len(token_ids) if len(token_ids) else None
