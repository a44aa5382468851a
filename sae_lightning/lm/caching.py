"""Keys and values of earlier tokens, kept: whether a plain model goes on from them as it reads a whole text."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from sae_lightning.lm.agreement import difference, tolerance
from sae_lightning.lm.plain import PlainModel
from sae_lightning.lm.run import Request

# Rounding at the logits, over that at a site in half precision; see ``lm.trial``.
_FURTHER = 4
_STEPS = 4


def new_cache(model: nn.Module) -> object:
    """Return an empty cache for a Hugging Face ``model``, with windows in the layers that have them."""
    from transformers import DynamicCache

    return DynamicCache(config=getattr(model, "config", None))


def differing_cached(plain: PlainModel, windows: Tensor) -> str | None:
    """Return what speaks against decoding token by token with a cache; None: nothing.

    ``windows`` [2, p] are run whole, and in two parts and single tokens after those: just before the end, and over the
    place where a sliding window begins to slide. The logits have to agree as two ways of running do (``lm.trial``).
    """
    length, window = windows.shape[1], plain.sliding_window
    begins = {max(1, length - _STEPS)}
    if window is not None and 2 < window < length - _STEPS:
        begins.add(window - 2)
    try:
        whole = plain.run(windows, Request()).logits
        for begin in begins:
            cache, edges = new_cache(plain.twin), [0, begin // 2, begin, *range(begin + 1, begin + _STEPS + 1)]
            parts = [windows[:, a:b] for a, b in pairwise(edges)]
            logits = [plain.run(part, Request(), cache).logits for part in parts if part.shape[1]]
            ours = torch.cat(logits, dim=1)
            off = difference(ours, whole[:, : ours.shape[1]])
            allowed = tolerance(whole.dtype, windows.device) * (1 if whole.dtype == torch.float32 else _FURTHER)
            if not off <= allowed:
                return f"with a cache its logits are off by {off:.2g}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's own forward, or a kind of cache that it does not take
        return f"it takes no cache ({type(error).__name__}: {error})"
    return None
