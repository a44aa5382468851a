"""Prompts read as the SAE's data were, many at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from sae_lightning.activations.harvest import read_windows
from sae_lightning.core import Features, TokenBatch, UserError
from sae_lightning.store import Reader
from sae_lightning.studies.progress import track
from sae_lightning.studies.subject import NEEDS_READER, Subject

# Windows are so many tokens or a multiple: the language model is tried once for every length that it meets.
_STEP = 8
_SHOWN = 60


@dataclass(frozen=True)
class Prompt:
    """A text and its features. pieces: exact source characters of each token; kept: which of them the mask leaves in.

    features: of the kept tokens, on the CPU, active pairs alone.
    """

    text: str
    pieces: list[str]
    token_ids: Int[NDArray, "n"]
    kept: Bool[NDArray, "n"]
    features: Features

    @property
    def n_kept(self) -> int:
        return int(self.kept.sum())

    def piece(self, row: int) -> str:
        """Return the source characters of a kept token, by its row in ``features``."""
        return self.pieces[int(np.flatnonzero(self.kept)[row])]


def shown(text: str) -> str:
    """Return a prompt as messages name it: quoted, its end left out where it is long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def reader_of(subject: Subject, study: str) -> Reader:
    """Return what reads texts for ``subject``. Raises UserError where there is none."""
    if subject.reader is None:
        raise UserError(f"{study}: {NEEDS_READER}")
    return subject.reader


def window_length(n_tokens: int, longest: int) -> int:
    """Return the length of the window for so many tokens, start included: a little longer, at most ``longest``."""
    return min(longest, -(-n_tokens // _STEP) * _STEP)


def read_prompts(reader: Reader, texts: Sequence[str], show: bool = True) -> list[Prompt]:
    """Return the features of each text; one that is longer than the corpus' windows is read in several of them.

    Raises UserError for a text without tokens, and for one whose tokens are all masked.
    """
    cuts = [reader.cut(text) for text in texts]
    started = reader.start is not None
    length = window_length(max((len(ids) for _, ids in cuts), default=0) + started, reader.context_length)
    batches = [reader.windows(ids, length - started) for _, ids in cuts]
    owner = np.repeat(np.arange(len(texts)), [len(batch.tokens) for batch in batches])
    kept: list[list[NDArray[np.bool_]]] = [[] for _ in texts]
    features: list[list[Features]] = [[] for _ in texts]
    joined = TokenBatch(**{name: torch.cat([vars(b)[name] for b in batches]) for name in vars(batches[0])})
    size = min(reader.micro_batch, len(owner))
    firsts = range(0, len(owner), size)
    for first in track(firsts, len(firsts), "reading prompts", show):
        part = TokenBatch(**{name: value[first : first + size] for name, value in vars(joined).items()})
        read = read_windows(reader.lm, part.tokens, reader.sites.read, size)
        x = torch.cat([read[site] for site in reader.sites.read], dim=-1)
        keep = reader.keep(part, x)
        found = _on_cpu(reader.encode(x[keep]))
        ends = [0, *keep.sum(1).cumsum(0).tolist()]
        for i, number in enumerate(owner[first : first + size].tolist()):
            kept[number].append(keep[i].cpu().numpy()[part.token_index[i].numpy() >= 0])
            features[number].append(found.slice(ends[i], ends[i + 1]))
    out = []
    for text, (pieces, ids), of_windows, parts in zip(texts, cuts, kept, features, strict=True):
        counted = np.concatenate(of_windows)
        if not counted.any():
            raise UserError(f"prompt {shown(text)}: the SAE's mask leaves none of its tokens; give a longer one")
        out.append(Prompt(text, pieces, ids, counted, Features.join(parts)))
    return out


def _on_cpu(features: Features) -> Features:
    moved = {name: value.cpu() for name, value in vars(features).items() if isinstance(value, torch.Tensor)}
    return Features(
        moved["values"],
        moved.get("indices"),
        moved.get("offsets"),
        features.d_sae,
        moved.get("input_mean"),
        moved.get("input_std"),
    )
