"""What may come after a prompt: one token, or a text."""

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.store import Reader


def continuation(reader: Reader, prompt: str, text: str, *, space: bool = True) -> Int[NDArray, "m"]:
    """Return the token ids of a text that comes after a prompt.

    space: put a space between two words that would run into one. Raises UserError for a text without tokens.
    """
    return reader.cut(_spaced(prompt, text) if space else text)[1]


def single_token(reader: Reader, prompt: str, text: str, name: str, *, space: bool = True) -> int:
    """Return the one token that ``text`` is after a prompt.

    space: take it as a word of its own, ``" Paris"`` for ``"Paris"``, where that is one token. name: of the setting.
    Raises UserError for a text of several tokens, naming them and what would be one.
    """
    spaced = _spaced(prompt, text) if space else text
    for form in dict.fromkeys((spaced, text)):
        pieces, ids = reader.cut(form)
        if len(ids) == 1:
            return int(ids[0])
    pieces, _ = reader.cut(spaced)
    parts = ", ".join(repr(piece) for piece in pieces[:6]) + (", ..." if len(pieces) > 6 else "")
    whole = next((piece for piece in pieces if piece.strip()), "")
    remedy = f"; its first alone is {name}={whole!r}" if whole and whole != spaced else "; give another word"
    raise UserError(f"{name}={text!r}: must be a single token, but it is {len(pieces)} ({parts}){remedy}")


def decoded(reader: Reader, ids: Int[NDArray, "m"] | list[int]) -> str:
    """Return what tokens are as a text, quoted."""
    return repr(reader.lm.tokenizer.decode(np.asarray(ids, np.int64).tolist()))


def _spaced(prompt: str, text: str) -> str:
    return f" {text}" if prompt[-1:].isalnum() and text[:1].isalnum() else text
