"""How much of a concept's words is in a text."""

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def concept_words(text: str, words: Sequence[str], start: int = 0) -> int:
    """Return how often any of ``words`` stands in a text as a whole word, upper and lower case alike.

    No letter or digit stands directly before or after it; a word of several words is one. Only what ends behind
    character ``start`` counts: where a prompt ends in the middle of a word, the text that goes on with it has it.
    """
    if not words:
        return 0
    # Longest first: of two that begin alike the longer one is meant. Folding may change lengths, so both parts are
    # folded by themselves.
    before, after = text[:start].casefold(), text[start:].casefold()
    either = "|".join(re.escape(word.casefold()) for word in sorted(words, key=len, reverse=True))
    found = re.compile(rf"(?<![^\W_])(?:{either})(?![^\W_])").finditer(before + after)
    return sum(one.end() > len(before) for one in found)


def all_words(text: str) -> int:
    """Return the number of words of a text: runs of letters, digits and underscores."""
    return len(_WORD.findall(text))
