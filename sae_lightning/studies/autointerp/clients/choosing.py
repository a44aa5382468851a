"""Questions with choices put to a model on this machine: each choice gets its probability."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from sae_lightning.studies.autointerp.clients.chat_format import ChatFormat
from sae_lightning.studies.autointerp.clients.client import Answer, Request
from sae_lightning.studies.autointerp.clients.continuations import Continuations, Row

Ids = tuple[int, ...]


def choose(
    requests: Sequence[Request], prompts: Mapping[int, list[int]], form: ChatFormat, end: int, read: Continuations
) -> Iterator[tuple[int, Answer]]:
    """Yield (place, answer) of requests with choices as their batches are read.

    prompts: ids of each request's chat, by its place. end: id that ends a turn. For the formula see ``LocalClient``.
    """
    spelt = {place: spellings(requests[place].choices, form, end) for place in prompts}
    wants: dict[Ids, dict[tuple[int, int], None]] = {}
    needed: dict[int, set[Ids]] = {}
    askers: dict[Ids, list[int]] = {}
    for place, prompt in prompts.items():
        for tokens in (tokens for choice in spelt[place] for tokens in choice):
            row = (*prompt, *tokens[:-1])
            wants.setdefault(row, {}).update(dict.fromkeys((len(prompt) + i, t) for i, t in enumerate(tokens)))
            needed.setdefault(place, set()).add(row)
        for row in needed[place]:
            askers.setdefault(row, []).append(place)
    rows = [Row(ids, tuple(asked)) for ids, asked in wants.items()]
    known: dict[Ids, dict[tuple[int, int], float]] = {}
    for number, values in read.score(rows):
        row = rows[number]
        known[row.ids] = dict(zip(row.wants, values, strict=True))
        for place in askers[row.ids]:
            needed[place].discard(row.ids)
            if not needed[place]:
                yield place, _chosen(requests[place], prompts[place], spelt[place], known)


def spellings(choices: Sequence[str], form: ChatFormat, end: int) -> list[list[Ids]]:
    """Return the ids of each choice as it is written and with a small or capital first letter, once each.

    Where one begins like another all are followed by ``end``, so that no two can be the beginning of one answer.
    """
    taken = set(choices)
    spelt: list[list[Ids]] = []
    for choice in choices:
        others = {choice[:1].upper() + choice[1:], choice[:1].lower() + choice[1:]} - taken
        taken |= others
        spelt.append([tuple(form.plain(word)) for word in (choice, *sorted(others))])
    every = [tokens for words in spelt for tokens in words]
    if any(a != b and b[: len(a)] == a for a in every for b in every):
        return [[(*tokens, end) for tokens in words] for words in spelt]
    return spelt


def _chosen(
    request: Request, prompt: list[int], spelt: list[list[Ids]], known: Mapping[Ids, Mapping[tuple[int, int], float]]
) -> Answer:
    sums = []
    for words in spelt:
        logs = []
        for tokens in words:
            of = known[(*prompt, *tokens[:-1])]
            logs.append(sum(of[len(prompt) + i, token] for i, token in enumerate(tokens)))
        sums.append(torch.tensor(logs, dtype=torch.float64).logsumexp(0))
    chances = torch.stack(sums).softmax(0).tolist()
    if not all(map(math.isfinite, chances)):
        return Answer(None, "malformed", len(prompt))  # a model that overflows
    best = max(range(len(chances)), key=chances.__getitem__)
    probabilities = dict(zip(request.choices, chances, strict=True))
    return Answer(request.choices[best], None, len(prompt), len(spelt[best][0]), probabilities)
