"""Which features are more active on a prompt than they usually are?"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, MinLen

from sae_lightning.core import UserError
from sae_lightning.studies.search.base_rate import BaseRate, base_rate, of_longest
from sae_lightning.studies.search.prompts import Prompt, read_prompts, reader_of, shown
from sae_lightning.studies.study import Cell, Result, Study, Table
from sae_lightning.studies.subject import NEEDS_READER, Subject

COLUMNS = ("feature", "score", "activation", "of_largest", "density", "token")
Token = Literal["last", "max", "mean"]


class PromptSearch(Study):
    """Features ranked by how surprising their activation on a prompt is, in nats, against their base rate.

    Of a token, ``S_i(a) = -log((1 + #{tokens at large with |f_i| >= |a|}) / (1 + n))``: 0 for a feature that is not
    active, near 0 for one that is always as active as that, at most log(1 + n) where it was never that active. Under
    ``token``

    - ``last``: S of the last token that the mask keeps;
    - ``max``:  of the strongest of m kept tokens, ``-log(1 - (1 - exp(-S))^m)``, so that a long prompt is no advantage;
    - ``mean``: the mean of S over kept tokens. 2 m times it is Fisher's statistic of m p-values (Fisher 1932), so the
      order of features is that of his combined test.

    Of equal scores (a ceiling: never seen so active) the one nearer to its largest activation comes first.

    prompt: any text. n: rows of the table. Columns: the score; the activation (mean: over kept tokens) and its share of
    the feature's largest at large; the share of tokens at large on which it is active; the token it is strongest on.
    The subject needs a ``reader``, and a store or windows for the base rate.
    Raises UserError for a text without tokens or without any that the mask keeps.
    """

    name: ClassVar[str] = "search_prompt"

    def __init__(
        self,
        prompt: Annotated[str, MinLen(1)],
        token: Token = "last",
        n: Annotated[int, Ge(1)] = 20,
        show_progress: bool = True,
    ) -> None:
        self.prompt, self.n, self.show_progress = prompt, n, show_progress
        if token not in ("last", "max", "mean"):
            raise UserError(f"token={token!r}: must be last, max or mean")
        self.token: Token = token

    def reason(self, subject: Subject) -> str | None:
        return NEEDS_READER if subject.reader is None else None

    def run(self, subject: Subject) -> Result:
        (prompt,) = read_prompts(reader_of(subject, self.name), [self.prompt], show=False)
        base = base_rate(subject, self.show_progress)
        rows = ranked([self._row(prompt, base, *active) for active in self._active(prompt)], self.n)
        caption = f"Features of {shown(self.prompt)} by surprise, nats ({self._where(prompt)})"
        notes = (f"base rate: {base.n:,} tokens", *(() if rows else ("no feature is active there",)))
        return Result({}, {"features": Table(COLUMNS, rows, caption)}, notes)

    def _active(self, prompt: Prompt) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return (feature, kept tokens, activations) of every feature that has a say."""
        row, index, value = (part.numpy() for part in prompt.features.triples())
        if self.token == "last":
            last = row == prompt.n_kept - 1
            row, index, value = row[last], index[last], value[last]
        order = np.argsort(index, kind="stable")
        row, index, value = row[order], index[order], value[order]
        features, starts = np.unique(index, return_index=True)
        ends = [*starts[1:].tolist(), len(index)]
        return [(int(f), row[a:b], value[a:b]) for f, a, b in zip(features, starts.tolist(), ends, strict=True)]

    def _row(self, prompt: Prompt, base: BaseRate, feature: int, rows: np.ndarray, values: np.ndarray) -> tuple:
        strongest = int(np.abs(values).argmax())
        activation = float(values[strongest])
        if self.token == "mean":
            score = -float(np.log(base.tail(feature, values)).sum()) / prompt.n_kept
            activation = float(values.sum(dtype=np.float64)) / prompt.n_kept
        else:
            tail = base.tail(feature, values[[strongest]])
            score = -float(np.log(tail if self.token == "last" else of_longest(tail, prompt.n_kept))[0])
        of_largest = base.share(feature, activation)
        return feature, score + 0.0, activation, of_largest, base.density(feature), prompt.piece(int(rows[strongest]))

    def _where(self, prompt: Prompt) -> str:
        if self.token == "last":
            return f"on its last kept token {prompt.piece(prompt.n_kept - 1)!r}"
        return f"{'strongest' if self.token == 'max' else 'mean'} of its {prompt.n_kept} kept tokens"


def ranked(rows: list[tuple[Cell, ...]], n: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the n rows (feature, score, activation, share of the largest, ...) of the largest scores, best first."""
    return tuple(sorted(rows, key=lambda row: (-row[1], -row[3], row[0]))[:n])  # type: ignore[operator] - numbers here
