"""The features on one token of each of many short texts, read through the language model together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.harvest import read_windows
from sae_lightning.activations.mask import real_tokens
from sae_lightning.core import TokenBatch, UserError
from sae_lightning.store.texts import Cutter
from sae_lightning.studies.progress import track
from sae_lightning.studies.subject import UNIT_TOKENS, Subject, inference
from sae_lightning.tokens import WindowSample

# Texts are padded to a multiple of this length, and read with others of theirs.
_LENGTHS = 16


class Place(NamedTuple):
    """A text, and the part of it (characters ``begin`` to ``end - 1``) whose last token is asked about."""

    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class LastTokens:
    """Of each text's token: its id [n], its characters, whether the mask keeps it [n], and its features.

    texts, features, values [nnz]: every pair that is active, ordered by text and feature; none on a token that the mask
    leaves out.
    """

    token_ids: Int[NDArray, "n"]
    pieces: list[str]
    kept: Bool[NDArray, "n"]
    texts: Int[NDArray, "nnz"]
    features: Int[NDArray, "nnz"]
    values: Float[NDArray, "nnz"]


def last_tokens(subject: Subject, places: Sequence[Place], show_progress: bool = True) -> LastTokens:
    """Read the texts up to the token that holds the last character of their part, and return the features on it.

    A causal model does not see what follows, so that is not read. Every text begins as one does inside a window of the
    corpus: behind the separator that stands between texts (BOS where windows begin with it). The separator then has the
    first position, which masks leave out because language models keep something else there, and the text has the rest.

    Raises UserError for a part without tokens and for a text that is longer than the model's context.
    """
    assert subject.lm is not None
    cutter = Cutter(subject.lm.tokenizer)
    cut = [_up_to(cutter, place) for place in places]
    ids = [one[0] for one in cut]
    start = _start(subject)
    room = subject.lm.n_ctx - len(start)
    for place, one in zip(places, ids, strict=True):
        if len(one) > room:
            raise UserError(
                f"concept in {place.text[:60]!r}: ends at token {len(one)}, but the language model reads {room}; "
                "shorten it"
            )
    kept = np.zeros(len(places), np.bool_)
    found: list[tuple[NDArray, NDArray, NDArray]] = []
    batches = list(_batches([len(start) + len(one) for one in ids]))
    with inference(subject.sae):
        for chosen in track(batches, len(batches), f"{len(places):,} short texts", show_progress):
            x, keep = _rows(subject, [[*start, *ids[i].tolist()] for i in chosen], len(start))
            numbers = np.asarray(chosen)
            kept[numbers] = keep.cpu().numpy()
            x = x[keep].to(subject.device, torch.float32)
            rows, features, values = (part.cpu().numpy() for part in subject.sae.encode(x).triples())
            found.append((numbers[keep.cpu().numpy()][rows], features, values.astype(np.float32)))
    texts, features, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((features, texts))
    last = np.array([one[-1] for one in ids], np.int64)
    return LastTokens(last, [one[1] for one in cut], kept, texts[order], features[order], values[order])


def _up_to(cutter: Cutter, place: Place) -> tuple[NDArray[np.int64], str]:
    """Return (ids up to the token that holds the part's last character, that token's characters)."""
    part = place.text[place.begin : place.end]
    alone, found = cutter.ids_and_ends(part), cutter.ids_and_ends(place.text)
    if alone is None or found is None:
        raise UserError("the tokenizer of this language model does not tell where tokens lie; choose another study")
    if not len(alone[0]):
        raise UserError(f"concept {part!r}: has no tokens; leave it out")
    ids, ends = found
    data = place.text.encode()
    end = len(place.text[: place.end].encode())
    # Several tokens of one character end together: the last of them.
    last = int(np.searchsorted(ends, end, side="right")) - 1
    if last < 0 or ends[last] < end:
        last += 1
    last = min(last, len(ids) - 1)
    return ids[: last + 1], data[int(ends[last - 1]) if last else 0 : int(ends[last])].decode("utf-8", "replace")


def _start(subject: Subject) -> list[int]:
    """Return what texts begin behind: the windows' own BOS, else the separator, else BOS, else nothing."""
    assert subject.lm is not None
    assert subject.harvester is not None
    windows = subject.harvester.windows
    begin = (windows.base if isinstance(windows, WindowSample) else windows).bos_id
    candidates = (begin, subject.lm.separator_id, subject.lm.bos_id)
    return [next(i for i in candidates if i is not None)] if any(i is not None for i in candidates) else []


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers of texts of like length, about a unit of tokens at a time."""
    padded = [-(-length // _LENGTHS) * _LENGTHS for length in lengths]
    order = sorted(range(len(padded)), key=lambda i: (padded[i], i))
    first = 0
    while first < len(order):
        length = padded[order[first]]
        last = first
        while last < len(order) and padded[order[last]] == length and (last - first) * length < UNIT_TOKENS:
            last += 1
        yield order[first:last]
        first = last


def _rows(subject: Subject, ids: Sequence[Sequence[int]], n_start: int) -> tuple[Tensor, Tensor]:
    """Return (what the SAE reads on each text's last token, whether the mask keeps it)."""
    lm, harvester = subject.lm, subject.harvester
    assert lm is not None
    assert harvester is not None
    length = min(-(-max(map(len, ids)) // _LENGTHS) * _LENGTHS, lm.n_ctx)
    tokens = torch.zeros(len(ids), length, dtype=torch.int64)
    there = torch.zeros(len(ids), length, dtype=torch.bool)
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = torch.tensor(one)
        there[row, : len(one)] = True
    index = torch.where(there, torch.arange(length) - n_start, -1)
    nothing = torch.zeros(len(ids), dtype=torch.int64)
    batch = TokenBatch(tokens, there, index, nothing, nothing)
    read = read_windows(lm, tokens, harvester.sites.read, len(ids))
    acts = torch.cat([read[site] for site in harvester.sites.read], dim=-1)
    keep = real_tokens(batch).to(acts.device) if harvester.mask is None else harvester.mask.keep(batch, acts)
    rows, last = torch.arange(len(ids)), torch.tensor([len(one) - 1 for one in ids])
    return acts[rows.to(acts.device), last.to(acts.device)], keep[rows.to(keep.device), last.to(keep.device)]
