"""Clients that answer from a function, and records made by hand."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sae_lightning.studies.autointerp.clients.client import Answer, Request, Usage
from sae_lightning.studies.autointerp.records import SILENT, Record, Stretch, Unit

Script = Callable[[Request], str | Answer | None]


class Scripted:
    """Answers every request by a function: a text, an answer, or None for one that is malformed.

    probabilities: gives those of the choices, from the request.
    """

    name = "scripted"

    def __init__(self, script: Script, probabilities: Callable[[Request], Mapping[str, float]] | None = None) -> None:
        self.script, self.probabilities = script, probabilities
        self.asked: list[Request] = []

    @property
    def usage(self) -> Usage:
        return Usage(requests=len(self.asked))

    def ask(self, requests: Sequence[Request], what: str = "asking") -> list[Answer]:
        self.asked += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        said = self.script(request)
        if isinstance(said, Answer):
            return said
        known = None if self.probabilities is None else self.probabilities(request)
        return Answer(None, "malformed") if said is None else Answer(said, probabilities=known)


def stretch(words: str, active: Mapping[str, float] | None = None, level: int = 0, text: int = 0) -> Stretch:
    """Return a stretch of one token a word, active on some of the words."""
    pieces = [word if i == 0 else f" {word}" for i, word in enumerate(words.split(" "))]
    values = np.array([(active or {}).get(piece.strip(), 0.0) for piece in pieces], np.float32)
    ids = np.array([sum(map(ord, piece)) for piece in pieces], np.int64)
    return Stretch(tuple(pieces), ids, values, int(values.argmax()), text, level if values.any() else SILENT)


def record(number: int, word: str, *, kind: str = "feature", held: int = 5, levels: int = 5, seed: int = 0) -> Record:
    """Return the record of a unit that is active on one word, with ``held`` stretches of every level."""
    rng = np.random.default_rng([seed, number])
    others = ["tree", "river", "stone", "cloud", "garden", "letter", "seven", "slow"]

    def text(with_word: bool) -> str:
        words = rng.choice(others, 8).tolist()
        if with_word:
            words[int(rng.integers(0, 8))] = word
        return " ".join(words)

    def active(level: int) -> Stretch:
        return stretch(text(True), {word: level + 1.0}, level, int(rng.integers(0, 1000)))

    unit = Unit("feature", number) if kind == "feature" else Unit("neuron", number, 1)
    return Record(
        unit,
        float(levels),
        0.01,
        tuple(active(levels - 1) for _ in range(6)),
        tuple(active(level) for level in range(levels) for _ in range(held)),
        tuple(stretch(text(False)) for _ in range(held * levels)),
    )
