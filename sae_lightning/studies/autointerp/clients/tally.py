"""Counts what a client was asked and how it went."""

from collections import Counter

from sae_lightning.studies.autointerp.clients.client import Answer, Usage


class Tally:
    """Running counts behind a client's ``usage``; the names are those of ``Usage``."""

    def __init__(self) -> None:
        self.requests = 0
        self.retries = 0
        self.estimated = 0
        self.seconds = 0.0
        self.faults: Counter[str] = Counter()
        self._answered = 0
        self._problems: Counter[str] = Counter()
        self._prompt_tokens = 0
        self._completion_tokens = 0

    def count(self, answer: Answer) -> None:
        """Count one answer, with or without a text."""
        self._answered += answer.problem is None
        if answer.problem is not None:
            self._problems[answer.problem] += 1
        self._prompt_tokens += answer.prompt_tokens
        self._completion_tokens += answer.completion_tokens

    def usage(self, cost: float | None = None) -> Usage:
        """Return the counts as they stand."""
        return Usage(
            requests=self.requests,
            answered=self._answered,
            retries=self.retries,
            faults=Counter(self.faults),
            problems=Counter(self._problems),
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            estimated=self.estimated,
            cost=cost,
            seconds=self.seconds,
        )
