"""What a language model wrote, read again without steering: the features it shows, and how surprising it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from sae_lightning.core import TokenBatch
from sae_lightning.lm.crossentropy import loss
from sae_lightning.store import Reader
from sae_lightning.studies.splice import windows_at_a_time
from sae_lightning.studies.steering.generate import Continuation, decoded


@dataclass(frozen=True)
class Sample:
    """A continuation of a prompt, token by token, n of them.

    prompt: number of the prompt. number: of the sample; the same number has the same random draws whatever the edits.
    pieces: the characters of each token, joined the text; a token that is part of a character may have none.
    values: activations of m features in a clean reading of prompt and continuation, 0 where not active or masked.
    kept: which tokens the SAE's mask leaves in. nats: each token's cross-entropy under the unsteered model, given
    everything before it. logprobs: of each token under the model that wrote it. ended: whether the model ended it.
    """

    prompt: int
    number: int
    token_ids: Int[NDArray, "n"]
    pieces: tuple[str, ...]
    values: Float[NDArray, "n m"]
    kept: Bool[NDArray, "n"]
    nats: Float[NDArray, "n"]
    logprobs: Float[NDArray, "n"]
    ended: bool

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, rounded to four digits."""
        return {
            "prompt": self.prompt,
            "number": self.number,
            "text": self.text,
            "pieces": list(self.pieces),
            "token_ids": self.token_ids.tolist(),
            "values": [[_rounded(v) for v in row] for row in self.values.tolist()],
            "kept": self.kept.tolist(),
            "nats": [_rounded(v) for v in self.nats.tolist()],
            "logprobs": [_rounded(v) for v in self.logprobs.tolist()],
            "ended": self.ended,
        }


@dataclass(frozen=True)
class Variant:
    """Samples that were written one way. name: ``unsteered``, ``5x``, ... strength: the number in it, if any."""

    name: str
    samples: tuple[Sample, ...]
    strength: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "strength": self.strength,
            "samples": [sample.to_json() for sample in self.samples],
        }


@dataclass(frozen=True)
class Group:
    """Variants to be read side by side. features: whose activations the samples' ``values`` are, in this order."""

    features: tuple[int, ...]
    variants: tuple[Variant, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"features": list(self.features), "variants": [variant.to_json() for variant in self.variants]}


def read_again(
    reader: Reader,
    prompt_ids: Int[NDArray, "p"],
    continuations: Sequence[Continuation],
    features: Sequence[int],
    prompt: int = 0,
) -> list[Sample]:
    """Return continuations of one prompt with what the unsteered model and the SAE make of them.

    Each is one window: the token that windows begin with, the prompt, the continuation. prompt: number of the prompt.
    """
    if not continuations:
        return []
    head = ([] if reader.start is None else [reader.start]) + np.asarray(prompt_ids, np.int64).tolist()
    length = len(head) + max(len(one.token_ids) for one in continuations)
    size = windows_at_a_time(reader.lm, length)
    samples = []
    for first in range(0, len(continuations), size):
        some = continuations[first : first + size]
        batch = _windows(head, some, length, reader)
        ran = reader.lm.run(batch.tokens, sites=reader.sites.read)
        nats = loss(ran.logits, batch.tokens).double().cpu().numpy()
        x = torch.cat([ran.seen[site] for site in reader.sites.read], dim=-1)
        keep = reader.keep(batch, x)
        # One column a feature asked about, a row a token.
        values = np.zeros((*batch.tokens.shape, len(features)), np.float32)
        values[keep.cpu().numpy()] = _columns(reader, x[keep], features)
        for j, one in enumerate(some):
            inside = slice(len(head), len(head) + len(one.token_ids))
            samples.append(
                Sample(
                    prompt=prompt,
                    number=first + j,
                    token_ids=np.asarray(one.token_ids, np.int64),
                    pieces=_pieces(reader, prompt_ids, one.token_ids),
                    values=values[j, inside],
                    kept=keep[j, inside].cpu().numpy(),
                    nats=nats[j, len(head) - 1 : len(head) - 1 + len(one.token_ids)],
                    logprobs=np.asarray(one.logprobs, np.float64),
                    ended=bool(one.ended),
                )
            )
    return samples


def _windows(head: Sequence[int], some: Sequence[Continuation], length: int, reader: Reader) -> TokenBatch:
    tokens = np.full((len(some), length), reader.lm.separator_id or 0, np.int64)
    index = np.full((len(some), length), -1, np.int64)
    begin = int(reader.start is not None)
    for row, one in enumerate(some):
        ids = [*head, *one.token_ids.tolist()]
        tokens[row, : len(ids)] = ids
        index[row, begin : len(ids)] = np.arange(len(ids) - begin)
    real = (index >= 0) | (np.arange(length) < begin)
    zeros = torch.zeros(len(some), dtype=torch.int64)
    return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(real), torch.from_numpy(index), zeros, zeros)


def _columns(reader: Reader, x: torch.Tensor, features: Sequence[int]) -> Float[NDArray, "n m"]:
    out = np.zeros((x.shape[0], len(features)), np.float32)
    if not len(x):
        return out
    rows, numbers, values = (value.cpu().numpy() for value in reader.encode(x).triples())
    for column, feature in enumerate(features):
        mine = numbers == feature
        out[rows[mine], column] = values[mine]
    return out


def _pieces(reader: Reader, prompt_ids: Int[NDArray, "p"], token_ids: Int[NDArray, "n"]) -> tuple[str, ...]:
    """Return each token's characters: what it adds to the decoded text. Of a character's parts the first has it.

    Decoded behind the prompt, for some tokenizers drop the space that a text begins with.
    """
    head, ids = np.asarray(prompt_ids).tolist(), np.asarray(token_ids).tolist()
    before = decoded(reader.lm, head)
    pieces = [""] * len(ids)
    first = 0  # of the tokens whose characters are not known yet
    for last in range(len(ids)):
        text = decoded(reader.lm, head + ids[: last + 1])
        unfinished = text.endswith("\ufffd") and last + 1 < len(ids)
        if unfinished:
            continue
        if not text.startswith(before):
            return tuple(decoded(reader.lm, [one]) for one in ids)
        pieces[first], before, first = text[len(before) :], text, last + 1
    return tuple(pieces)


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
