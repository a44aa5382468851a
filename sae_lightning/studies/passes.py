"""Reading a unit of windows once, for every study that asks about it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lightning.core import Features, TokenBatch, UserError
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.studies.subject import BLOCK_ROWS, UNIT_TOKENS, Subject

# Numbers in one chunk's [rows, d_sae] pre-activations: 256 MB in float32.
_PRE_ACTS = 1 << 26


class Window(NamedTuple):
    """The kept rows of one window and what the SAE makes of them."""

    number: int
    x: Float[Tensor, "n d_in"]
    y: Float[Tensor, "n d_out"]
    y_hat: Float[Tensor, "n d_out"]
    features: Features


@dataclass(frozen=True)
class Text:
    """A unit's windows of text with every position in place; acts and targets in the language model's dtype."""

    tokens: TokenBatch
    acts: Float[Tensor, "b p d_in"]
    targets: Float[Tensor, "b p d_out"]
    keep: Bool[Tensor, "b p"]


@dataclass(frozen=True)
class Pass:
    """A unit of windows, read: kept rows x [n, d_in] and y [n, d_out], float32, on the SAE's device.

    numbers: the windows; rows ``offsets[i]`` to ``offsets[i + 1]`` are those of window i.
    text: for windows of text. truth: true features of synthetic rows.
    mean: of y over *all* units [d_out], float64, once it is known.
    ``y_hat`` and ``features`` (active pairs only) are computed at first use, in chunks that bound memory: in eval mode
    and without gradients if asked for inside ``inference(sae)``.
    """

    sae: SparseAutoencoder
    numbers: list[int]
    x: Float[Tensor, "n d_in"]
    y: Float[Tensor, "n d_out"]
    token_index: Int[Tensor, "n"]
    offsets: list[int]
    text: Text | None = None
    truth: Features | None = None
    mean: Float[Tensor, "d_out"] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def _encoded(self) -> tuple[Tensor, Features]:
        chunk = max(64, min(UNIT_TOKENS, _PRE_ACTS // self.sae.d_sae))
        y_hats, features = [], []
        for part in self.x.split(chunk) if len(self.x) else [self.x]:
            out = self.sae(part)
            y_hats.append(out.y_hat)
            features.append(out.features.sparse())
        return torch.cat(y_hats), Features.join(features)

    @property
    def y_hat(self) -> Float[Tensor, "n d_out"]:
        return self._encoded[0]

    @property
    def features(self) -> Features:
        return self._encoded[1]

    def windows(self) -> Iterator[Window]:
        """Yield each window's rows."""
        for i, number in enumerate(self.numbers):
            a, b = self.offsets[i], self.offsets[i + 1]
            yield Window(number, self.x[a:b], self.y[a:b], self.y_hat[a:b], self.features.slice(a, b))

    def head(self, n: int) -> "Pass":
        """Return the first n windows of the unit."""
        if n >= len(self):
            return self
        rows, text = slice(0, self.offsets[n]), self.text
        if text is not None:
            tokens = TokenBatch(**{name: value[:n] for name, value in vars(text.tokens).items()})
            text = Text(tokens, text.acts[:n], text.targets[:n], text.keep[:n])
        part = replace(
            self,
            numbers=self.numbers[:n],
            x=self.x[rows],
            y=self.y[rows],
            token_index=self.token_index[rows],
            offsets=self.offsets[: n + 1],
            text=text,
            truth=self.truth and self.truth.slice(0, self.offsets[n]),
        )
        # Computed for the whole unit: the same bits for a study that asks about a part.
        part.__dict__["_encoded"] = (self.y_hat[rows], self.features.slice(0, self.offsets[n]))
        return part


def read_unit(subject: Subject, numbers: list[int]) -> Pass:
    """Read these windows of the subject's data (one of ``subject.units()``)."""
    if subject.given is not None:
        return _rows(subject, numbers)
    if subject.truth is not None:
        return _synthetic(subject, numbers)
    if subject.harvester is None or not numbers:
        raise UserError("held-out data: none was given; give rows, or a harvester and at least one window")
    # Always as many windows at once, whatever the harvester's own micro-batch: the same shapes give the same bits.
    size = max(1, UNIT_TOKENS // subject.window_tokens)
    tokens, acts, targets, keep = subject.harvester.with_micro_batch(size).full_with_targets(numbers)
    x = acts[keep].to(subject.device, torch.float32)
    y = x if targets is acts else targets[keep].to(subject.device, torch.float32)
    offsets = [0, *keep.sum(1).cumsum(0).tolist()]
    index = tokens.token_index.to(keep.device)[keep]
    return Pass(subject.sae, numbers, x, y, index, offsets, text=Text(tokens, acts, targets, keep))


def _rows(subject: Subject, numbers: list[int]) -> Pass:
    given = subject.given
    assert given is not None
    first, last = numbers[0] * BLOCK_ROWS, min(len(given), (numbers[-1] + 1) * BLOCK_ROWS)
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "units of rows are consecutive blocks"
    x = given.x[first:last].to(subject.device, torch.float32)
    y = x if given.y is given.x else given.y[first:last].to(subject.device, torch.float32)
    offsets = [min((number + 1) * BLOCK_ROWS, len(given)) - first for number in numbers]
    return Pass(subject.sae, numbers, x, y, given.token_index[first:last], [0, *offsets])


def _synthetic(subject: Subject, numbers: list[int]) -> Pass:
    assert subject.truth is not None
    blocks = [subject.truth.block(number) for number in numbers]
    x = torch.cat([block[0] for block in blocks]).to(subject.device, torch.float32)
    size = subject.truth.block_rows
    index = torch.cat([torch.arange(number * size, (number + 1) * size) for number in numbers])
    offsets = list(range(0, (len(numbers) + 1) * size, size))
    return Pass(subject.sae, numbers, x, x, index, offsets, truth=Features.join([block[1] for block in blocks]))
