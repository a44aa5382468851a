"""Next-token losses, in float32 and a few rows at a time: a vocabulary is wide."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Elements of one chunk of float32 logits: 64 MB, whatever the vocabulary.
_CHUNK_ELEMENTS = 1 << 24


def predicted(mask: Bool[Tensor, "b p"]) -> Bool[Tensor, "b p_minus_1"]:
    """Return which positions predict a real token from a real token: the ones a mean of ``loss`` runs over."""
    return mask[:, :-1] & mask[:, 1:]


def loss(
    logits: Float[Tensor, "b p vocab"], tokens: Int[Tensor, "b p"], mask: Bool[Tensor, "b p"] | None = None
) -> Float[Tensor, "b p_minus_1"]:
    """Return the cross-entropy of each next token, ``-log softmax(logits[:, i])[tokens[:, i + 1]]``, in nats, float32.

    mask: real tokens; entries where ``predicted(mask)`` is False are 0, so divide a sum by ``predicted(mask).sum()``.
    """
    batch, length, vocab = logits.shape
    targets = tokens[:, 1:].reshape(-1).to(logits.device)

    def rows(first: int, last: int, chunk: Tensor) -> Tensor:
        own = chunk.gather(1, targets[first:last, None]).squeeze(1)
        return chunk.logsumexp(1) - own

    out = _by_rows(rows, logits[:, :-1].reshape(-1, vocab)).view(batch, length - 1)
    return out if mask is None else out.masked_fill(~predicted(mask).to(out.device), 0.0)


def kl(
    clean: Float[Tensor, "b p vocab"], spliced: Float[Tensor, "b p vocab"], mask: Bool[Tensor, "b p"] | None = None
) -> Float[Tensor, "b p"]:
    """Return ``KL(softmax(clean) || softmax(spliced))`` of each position's next-token distribution, in nats, float32.

    mask: positions outside it are 0. Differentiable in both.
    """
    other = spliced.reshape(-1, spliced.shape[-1])

    def rows(first: int, last: int, chunk: Tensor) -> Tensor:
        log_p = chunk.log_softmax(1)
        log_q = other[first:last].float().log_softmax(1)
        return (log_p.exp() * (log_p - log_q)).sum(1)

    out = _by_rows(rows, clean.reshape(-1, clean.shape[-1])).view(clean.shape[:-1])
    return out if mask is None else out.masked_fill(~mask.to(out.device), 0.0)


def _by_rows(function: Callable[[int, int, Tensor], Tensor], logits: Float[Tensor, "n vocab"]) -> Float[Tensor, "n"]:
    step = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    n = logits.shape[0]
    parts = [function(i, min(i + step, n), logits[i : i + step].float()) for i in range(0, n, step)]
    return torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float32)
