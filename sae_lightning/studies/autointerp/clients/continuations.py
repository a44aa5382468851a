"""Log-probabilities of what may follow prompts; what prompts begin with in common is read once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

# A pass costs about as much as so many tokens more than it reads.
_PASS = 32
# A shorter beginning is not worth a pass of its own.
_SHORTEST = 16
_MOST_ROWS = 64
# Difference of log-probabilities between both ways of reading that rounding does not explain.
_TOLERANCE = {torch.float32: 1e-3}
_HALF_TOLERANCE = 0.5


@dataclass(frozen=True)
class Row:
    """A text as ids, and the tokens asked for: (place, id) asks for log p(id | ids[:place]), place from 1."""

    ids: tuple[int, ...]
    wants: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Batch:
    """Rows read together: their places, and how many ids they begin with in common that are read once."""

    places: tuple[int, ...]
    shared: int


def plan(rows: Sequence[Row], batch_tokens: int, *, share: bool = True) -> list[Batch]:
    """Return batches of all rows at the least cost, which is the tokens read and a constant a pass.

    Rows are sorted, so that those that begin alike are neighbours, and cut where the costs add up to least. A batch
    has at most ``batch_tokens`` tokens with its padding, or one row.
    """
    order = sorted(range(len(rows)), key=lambda place: rows[place].ids)
    alike = [0] + [_common(rows[a].ids, rows[b].ids) for a, b in pairwise(order)]
    best: list[tuple[float, int, int]] = [(0.0, 0, 0)]  # cost up to here, where the last batch begins, what it shares
    for end in range(1, len(order) + 1):
        longest, common, options = 0, len(rows[order[end - 1]].ids), []
        for begin in range(end - 1, max(end - 1 - _MOST_ROWS, -1), -1):
            row = rows[order[begin]]
            longest = max(longest, len(row.ids))
            # What is asked for must be read with the row.
            common = min(common, *(place - 1 for place, _ in row.wants), *alike[begin + 1 : min(begin + 2, end)])
            n = end - begin
            shared = common if share and n > 1 and common >= _SHORTEST else 0
            tokens = shared + n * (longest - shared)
            if n > 1 and n * longest > batch_tokens:
                break
            options.append((best[begin][0] + tokens + (2 if shared else 1) * _PASS, begin, shared))
        best.append(min(options))
    batches, end = [], len(order)
    while end:
        _, begin, shared = best[end]
        batches.append(Batch(tuple(order[begin:end]), shared))
        end = begin
    return batches[::-1]


class Continuations:
    """Reads rows with a causal language model of transformers.

    Rows are padded at their ends, which no token before them sees. Reading a beginning once is tried on the first
    batch that it pays for, and left where the model's cache does not give what reading rows whole gives.
    """

    def __init__(self, model: Any, batch_tokens: int) -> None:
        self._model, self._batch_tokens = model, batch_tokens
        self._shares: bool | None = None

    def score(self, rows: Sequence[Row]) -> Iterator[tuple[int, list[float]]]:
        """Yield (place in ``rows``, log-probabilities of its wants) batch by batch."""
        for batch in plan(rows, self._batch_tokens, share=self._shares is not False):
            chosen = [rows[place] for place in batch.places]
            shared = batch.shared
            if shared and self._shares is None:
                self._shares = self._agree(chosen[:2], shared)
            parts = [chosen]
            if shared and not self._shares:
                shared = 0
                size = max(1, self._batch_tokens // max(len(row.ids) for row in chosen))
                parts = [chosen[i : i + size] for i in range(0, len(chosen), size)]
            values = [one for part in parts for one in self._read(part, shared)]
            yield from zip(batch.places, values, strict=True)

    def _agree(self, rows: Sequence[Row], shared: int) -> bool:
        """Whether both ways of reading give the same, up to rounding."""
        try:
            a, b = (torch.tensor([v for row in self._read(rows, n) for v in row]) for n in (shared, 0))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model whose cache is of another make
            return False
        return bool((a - b).abs().max() <= _TOLERANCE.get(self._model.dtype, _HALF_TOLERANCE))

    @torch.inference_mode()
    def _read(self, rows: Sequence[Row], shared: int) -> list[list[float]]:
        device = self._model.device
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest - shared, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids) - shared] = torch.tensor(row.ids[shared:])
        wants = [(i, place - 1 - shared, token) for i, row in enumerate(rows) for place, token in row.wants]
        at = torch.tensor([(i, place) for i, place, _ in wants], device=device)
        more: dict[str, Any] = {"use_cache": False}
        if shared:
            more = {"use_cache": True, "past_key_values": self._beginning(rows[0].ids[:shared], len(rows))}
        logits = self._logits(ids.to(device), at, more).float()
        tokens = torch.tensor([token for *_, token in wants], device=device)
        chances = (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)).tolist()
        values: list[list[float]] = [[] for _ in rows]
        for (i, *_), chance in zip(wants, chances, strict=True):
            values[i].append(chance)
        return values

    def _beginning(self, ids: tuple[int, ...], n: int) -> Any:
        """Return the keys and values of a beginning, ``n`` times."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        self._model(torch.tensor([ids], device=self._model.device), past_key_values=cache, use_cache=True,
                    logits_to_keep=1)  # fmt: skip
        cache.batch_repeat_interleave(n)
        return cache

    def _logits(self, ids: Tensor, at: Tensor, more: dict[str, Any]) -> Tensor:
        """Return the logits [n, vocab] at (row, place) pairs; the head, as wide as the vocabulary, runs there alone."""
        head: nn.Module | None = self._model.get_output_embeddings()
        if head is None:
            return self._model(ids, **more).logits[at[:, 0], at[:, 1]]
        hook = head.register_forward_pre_hook(lambda module, args: (args[0][at[:, 0], at[:, 1]][None],))
        try:
            return self._model(ids, **more).logits[0]
        finally:
            hook.remove()


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return how many ids two texts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
