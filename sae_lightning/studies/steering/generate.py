"""Texts that a language model goes on with, steered or not."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.core.seeds import torch_generator
from sae_lightning.lm import FrozenLM
from sae_lightning.lm.decoding import Decoder
from sae_lightning.lm.standing import stand
from sae_lightning.store import Reader
from sae_lightning.studies.steering.sampling import Sampling, next_tokens
from sae_lightning.studies.steering.steering import Steering

# Samples that are decoded side by side. Always as many, so that a sample has the same bits whatever their number: on a
# CPU a row more costs little beside reading the weights.
_ROWS = 8


@dataclass(frozen=True)
class Continuation:
    """What came after a prompt: token_ids [n], its text, log-probabilities [n] (nats).

    The text does not include the token that ended it, if one did (ended). logprobs: of the tokens under the model as
    it ran, steered, at temperature 1 and with all tokens allowed.
    """

    token_ids: NDArray[np.int64]
    text: str
    logprobs: NDArray[np.float64]
    ended: bool


@dataclass
class _Sample:
    draws: torch.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


def generate(
    reader: Reader,
    prompt_ids: NDArray[np.int64],
    steering: Steering | None,
    sampling: Sampling,
    n: int = 1,
) -> list[Continuation]:
    """Return n texts that go on from a prompt, steered from its first token on (as ``steering.positions`` say).

    The prompt stands behind the token that every window of the reader begins with. Sample i is the same whatever n is.
    Raises UserError for a prompt without tokens, one that leaves no room for ``max_tokens``, positions outside the
    prompt, and steering so strong that the model's logits are no numbers.
    """
    lm, before = reader.lm, [] if reader.start is None else [reader.start]
    ids = np.asarray(prompt_ids, np.int64)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UserError(f"n={n}: must be a whole number of samples, at least 1")
    check_prompt(reader, ids, sampling, steering)
    endings = {i for i in (lm.tokenizer.eos_token_id, lm.separator_id) if isinstance(i, int)}
    known = _known(lm)
    room = len(before) + len(ids) + sampling.max_tokens
    # At temperature 0 all samples are one.
    samples = [_Sample(torch_generator(sampling.seed, "steering", i)) for i in range(n if sampling.temperature else 1)]
    with stand(lm, steering) if steering is not None else contextlib.nullcontext():
        decoder = Decoder(lm, cached=sampling.cached, room=room, before=len(before))
        logits = decoder.feed(torch.tensor([[*before, *ids.tolist()]])).logits[:, -1]
        for first in range(0, len(samples), _ROWS):
            group = samples[first : first + _ROWS]
            # The first token has the same logits for all; from the second on each has its row.
            _continue(decoder, logits, group, sampling, known, endings)
    made = [_continuation(lm, ids, sample) for sample in samples]
    return made if sampling.temperature else made * n


def _continue(
    prompt: Decoder, logits: Tensor, group: list[_Sample], sampling: Sampling, known: Tensor, endings: set[int]
) -> None:
    rows = _ROWS if sampling.temperature else 1
    decoder = prompt.spread(rows)
    logits = logits.expand(rows, -1)
    for step in range(sampling.max_tokens):
        if not bool(torch.isfinite(logits).all()):
            raise UserError("steering: the language model's logits are no longer numbers; choose smaller strengths")
        u = torch.full((rows,), 0.5, dtype=torch.float64)
        for row, sample in enumerate(group):
            u[row] = torch.rand((), generator=sample.draws, dtype=torch.float64)
        scores = logits.float()
        ours = next_tokens(torch.where(known.to(scores.device), scores, -math.inf), sampling, u)
        said = scores.double().log_softmax(-1).gather(-1, ours[:, None])[:, 0]
        chosen = ours.tolist()
        for sample, token, logprob in zip(group, chosen, said.tolist(), strict=False):
            if sample.ended:
                continue
            if token in endings:
                sample.ended = True
            else:
                sample.ids.append(token)
                sample.logprobs.append(logprob)
        if step + 1 == sampling.max_tokens or all(sample.ended for sample in group):
            return
        logits = decoder.feed(ours[:, None]).logits[:, -1]


def _continuation(lm: FrozenLM, prompt: NDArray[np.int64], sample: _Sample) -> Continuation:
    before, after = decoded(lm, prompt.tolist()), decoded(lm, [*prompt.tolist(), *sample.ids])
    # A tokenizer may drop the space that a text begins with.
    text = after[len(before) :] if after.startswith(before) else decoded(lm, sample.ids)
    return Continuation(np.array(sample.ids, np.int64), text, np.array(sample.logprobs, np.float64), sample.ended)


def decoded(lm: FrozenLM, ids: Sequence[int]) -> str:
    """Return the text of tokens as it is, special ones included."""
    text = lm.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _known(lm: FrozenLM) -> Tensor:
    """Return which rows of the vocabulary [vocab] the tokenizer has a token for: no other is ever drawn."""
    known = torch.zeros(lm.vocab_size, dtype=torch.bool)
    known[list(lm.tokenizer.get_vocab().values())] = True
    return known


def check_prompt(reader: Reader, ids: NDArray[np.int64], sampling: Sampling, steering: Steering | None = None) -> None:
    """Raise UserError for a prompt without tokens, one that is too long, and positions that lie outside it."""
    lm, before = reader.lm, int(reader.start is not None)
    if not len(ids):
        raise UserError("prompt: has no tokens; give a text with words in it")
    if before + len(ids) + sampling.max_tokens > lm.n_ctx:
        raise UserError(
            f"prompt of {len(ids)} tokens and max_tokens={sampling.max_tokens}: {lm.name} reads at most {lm.n_ctx}, "
            f"{before} of them before the prompt; shorten either"
        )
    if steering is not None and not isinstance(steering.positions, str):
        for number in steering.positions:
            if number >= len(ids):
                raise UserError(f"positions: {number} is beyond the prompt, which has tokens 0 to {len(ids) - 1}")
