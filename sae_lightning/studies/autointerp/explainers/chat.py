"""A chat model reads marked stretches and says in a sentence what they have in common."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from sae_lightning.studies.autointerp.clients.client import Client, Request
from sae_lightning.studies.autointerp.explanations import Explanation
from sae_lightning.studies.autointerp.prompts import explain_messages, marked, one_line
from sae_lightning.studies.autointerp.records import Record, Stretch


class ChatExplainer:
    """Shows the stretches of a record to a chat model and takes the first line of what it says.

    Marked in each stretch: tokens whose activation is at least ``marked`` of the largest in it. shown: at most so many
    stretches. max_tokens: of the answer. A unit whose answer could not be used has no explanation; ``client.usage``
    counts why.

    Source: Bills et al. 2023, "Language models can explain neurons in language models", with the marks of Paulo et al.
    2024, "Automatically interpreting millions of features in large language models", in place of numbers.
    """

    def __init__(
        self,
        client: Client,
        shown: Annotated[int, Ge(1)] = 12,
        marked: Annotated[float, Gt(0), Le(1)] = 0.3,
        max_tokens: Annotated[int, Ge(1)] = 40,
        temperature: Annotated[float, Ge(0)] = 0.0,
        seed: int = 0,
    ) -> None:
        self.client, self.shown, self.marked = client, shown, marked
        self.max_tokens, self.temperature, self.seed = max_tokens, temperature, seed

    @property
    def name(self) -> str:
        return self.client.name

    def explain(self, records: Sequence[Record]) -> list[Explanation | None]:
        requests = [self.request(record) for record in records]
        answers = self.client.ask(requests, "explaining")
        texts = [first_line(answer.text) for answer in answers]
        return [Explanation(text, self.name) if text else None for text in texts]

    def request(self, record: Record) -> Request:
        """Return what is asked about a unit."""
        texts = [self._marked(stretch) for stretch in record.shown[: self.shown]]
        return Request(explain_messages(texts), self.max_tokens, temperature=self.temperature, seed=self.seed)

    def _marked(self, stretch: Stretch) -> str:
        least = self.marked * float(stretch.values.max())
        return marked(stretch.pieces, np.asarray(stretch.values >= max(least, np.finfo(np.float32).tiny)))


def first_line(answer: str | None) -> str:
    """Return the first line with anything on it, as one line of text that can be seen; "" where there is none."""
    return next((line for raw in (answer or "").splitlines() if (line := _unquoted(one_line(raw)))), "")


def _unquoted(line: str) -> str:
    """Return a line without the quotation marks around the whole of it; those of words in it stay."""
    line = line.strip()
    if not line.strip("\"' "):
        return ""
    inside = line[1:-1]
    around = len(line) > 1 and line[0] == line[-1] and line[0] in "\"'" and line[0] not in inside
    return inside.strip() if around else line
