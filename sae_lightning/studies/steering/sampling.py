"""How the next token is chosen from logits."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import UserError


@dataclass(frozen=True)
class Sampling:
    """How a text goes on: at most ``max_tokens``, until the language model ends it.

    temperature: logits are divided by it; 0 takes the likeliest token, the first of equal ones. top_p: only the fewest
    likeliest tokens that hold so much probability (after the temperature) are drawn from. seed: sample i draws from a
    stream of its own, ``derive_seed(seed, "steering", i)``, one number a token; so two ways of steering differ by what
    they do and not by luck. cached: see ``lm.decoding.Decoder``.
    """

    max_tokens: int = 60
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    cached: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise UserError(f"max_tokens={self.max_tokens}: must be a whole number, at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature={self.temperature}: must be a number, at least 0 (the likeliest token)")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be above 0 and at most 1 (all tokens)")


def probabilities(logits: Float[Tensor, "b vocab"], temperature: float, top_p: float = 1.0) -> Float[Tensor, "b vocab"]:
    """Return what tokens are drawn with, float64: ``softmax(logits / temperature)``, cut at ``top_p``, not rescaled.

    Of equally likely tokens at the edge the first are kept.
    """
    wide = logits.double()
    # Less the largest first: a temperature near 0 would make it infinite.
    p = ((wide - wide.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p >= 1:
        return p
    ordered, order = p.sort(dim=-1, descending=True, stable=True)
    # The token that reaches top_p is the last one in.
    inside = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(p).scatter(-1, order, torch.where(inside, ordered, 0.0))


def draw(p: Float[Tensor, "b vocab"], u: Float[Tensor, "b"]) -> Int[Tensor, "b"]:
    """Return the token at which the running sum of ``p``, in the vocabulary's order, passes the share ``u`` < 1."""
    sums = p.cumsum(-1)
    found = torch.searchsorted(sums, (u.to(sums) * sums[:, -1])[:, None], right=True)[:, 0]
    last = torch.where(p > 0, torch.arange(p.shape[-1], device=p.device), -1).amax(-1)  # against rounding
    return torch.minimum(found, last)


def next_tokens(logits: Float[Tensor, "b vocab"], sampling: Sampling, u: Float[Tensor, "b"]) -> Int[Tensor, "b"]:
    """Return the next token of each row; u: a uniform number each."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return draw(probabilities(logits, sampling.temperature, sampling.top_p), u)
