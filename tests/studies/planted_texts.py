"""Small labelled tasks and a subject to probe on the tiny language model."""

from collections.abc import Iterator, Sequence

import numpy as np

from sae_lightning.tokens import Document, TextSource


class LabelledList(TextSource):
    """(text, label) pairs held in memory."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = list(pairs)

    def __str__(self) -> str:
        return "pairs"

    def identity(self) -> str:
        return "pairs"

    def documents(self, start: int = 0) -> Iterator[Document]:
        for text, label in self.pairs[start:]:
            yield Document(text, {"label": label})


def pairs(n: int, labels: Sequence[str] = ("vowels", "digits"), seed: int = 0) -> list[tuple[str, str]]:
    """Return texts of random length whose characters tell the label (and some that say nothing)."""
    alphabets = ["aeiou ", "01234 ", "XYZWV ", "!?.,; "]
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        which = i % len(labels)
        letters = list(alphabets[which] * 2 + "bcd ")
        out.append((f"{i} " + "".join(rng.choice(letters, rng.integers(5, 40))), labels[which]))
    return out
