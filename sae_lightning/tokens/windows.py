"""Windows: what the language model reads at once, cut out of a token store by number."""

import hashlib
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from sae_lightning.core import TokenBatch, UserError
from sae_lightning.tokens.order import EpochOrder
from sae_lightning.tokens.store import TokenStore

Split = Literal["train", "heldout", "all"]
Packing = Literal["packed", "document"]


class Windows:
    """Numbered windows of ``context_length`` ids over the documents of one split.

    split: a document is held out when ``hash(its ids) / 2^64 < heldout_fraction``. Only the text decides: the same
        text is on the same side in every run, whatever the seed, and duplicates are never on both.
    packed: the split's documents in file order, each followed by ``separator_id`` (nothing where it is None), cut
        every ``context_length``. The last partial window is dropped, or padded when it is the only one.
    document: each document cut into pieces of at most ``context_length``, one a window, padded.
    prepend_bos: every window begins with ``bos_id`` and carries one token less.
    seed: of ``order()`` alone.

    ``batch(numbers)`` is random access: tokens, mask and token_index are [batch, context_length], int64; mask is False
    on padding alone, token_index is -1 on padding, separators and BOS, else a position of the store. Empty documents
    are left out. The memory it takes grows with the number of documents (16 bytes each), not of tokens.

    Raises UserError: a fraction outside [0, 1], no room for a token, BOS without an id, no document in the split.
    """

    def __init__(
        self,
        store: TokenStore,
        split: Split,
        *,
        context_length: Annotated[int, Ge(1)],
        packing: Packing = "packed",
        separator_id: int | None = None,
        bos_id: int | None = None,
        prepend_bos: bool = False,
        heldout_fraction: Annotated[float, Interval(ge=0, le=1)] = 0.05,
        pad_id: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= heldout_fraction <= 1:
            raise UserError(f"heldout_fraction={heldout_fraction}: must be between 0 and 1")
        if prepend_bos and bos_id is None:
            raise UserError("prepend_bos=true: this language model has no BOS id; set it to false")
        if context_length < 1 + prepend_bos:
            raise UserError(f"context_length={context_length}: must leave room for at least one token")
        if packing not in ("packed", "document"):
            raise UserError(f"packing={packing!r}: must be packed or document")
        if split not in ("train", "heldout", "all"):
            raise UserError(f"split={split!r}: must be train, heldout or all")
        self.store = store
        self.split: Split = split
        self.context_length = context_length
        self.packing: Packing = packing
        self.separator_id = separator_id
        self.bos_id = bos_id if prepend_bos else None
        self.heldout_fraction = heldout_fraction
        self.pad_id = next(i for i in (pad_id, separator_id, bos_id, 0) if i is not None)
        self.seed = seed
        self._room = context_length - prepend_bos

        lengths = np.diff(store.starts) - 1
        chosen = _side(store, split, heldout_fraction) & (lengths > 0)
        self.documents: NDArray[np.int64] = np.flatnonzero(chosen)
        if not len(self.documents):
            raise _empty_split(store, split, heldout_fraction, int((lengths > 0).sum()))
        self._lengths = lengths[self.documents]
        self.n_tokens = int(self._lengths.sum())
        if packing == "packed":
            # Unit: positions of the joined stream.
            self._ends = np.cumsum(self._lengths + (separator_id is not None))
            self._n = max(1, int(self._ends[-1]) // self._room)
        else:
            # Unit: windows.
            self._ends = np.cumsum(-(-self._lengths // self._room))
            self._n = int(self._ends[-1])

    def __len__(self) -> int:
        return self._n

    def batch(self, window_numbers: NDArray[np.integer] | list[int]) -> TokenBatch:
        """Return these windows, in this order."""
        numbers = np.asarray(window_numbers, dtype=np.int64).reshape(-1)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self._n):
            raise IndexError(f"window number outside 0..{self._n - 1}")
        document, within = self._places(numbers)
        valid = document < len(self.documents)
        document = np.minimum(document, len(self.documents) - 1)
        separator = valid & (within == self._lengths[document]) & (self.packing == "packed")
        valid &= separator | (within < self._lengths[document])
        real = valid & ~separator

        text = self.documents[document]
        index = np.where(real, self.store.starts[text] + within, -1)
        tokens = np.full(index.shape, self.pad_id, dtype=np.int64)
        tokens[real] = self.store.take(index[real])
        if self.separator_id is not None:
            tokens[separator] = self.separator_id

        rows, first = np.arange(len(numbers)), real.argmax(axis=1)
        if self.bos_id is not None:
            tokens = _prefix(tokens, self.bos_id)
            valid = _prefix(valid, True)
            index = _prefix(index, -1)
        return TokenBatch(
            tokens=torch.from_numpy(tokens),
            mask=torch.from_numpy(valid),
            token_index=torch.from_numpy(index),
            text_index=torch.from_numpy(text[rows, first]),
            start=torch.from_numpy(within[rows, first]),
        )

    def order(self) -> EpochOrder:
        """Return the endless order of these windows that ``seed`` gives."""
        return EpochOrder(len(self), self.seed)

    def identity(self) -> str:
        """Return what names the windows' content: the store's identity and everything that cuts it, not the seed."""
        parts = (self.store.identity(), self.split, self.context_length, self.packing, self.separator_id)
        parts += (self.bos_id, self.heldout_fraction, self.pad_id)
        return "windows-" + hashlib.sha256(repr(parts).encode()).hexdigest()

    def _places(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each position of each window, the document (number within the split) and the place in it."""
        offsets = np.arange(self._room)
        if self.packing == "packed":
            position = numbers[:, None] * self._room + offsets
            document = np.searchsorted(self._ends, position, side="right")
            begin = np.where(document > 0, self._ends[np.minimum(document, len(self._ends)) - 1], 0)
            return document, position - begin
        document = np.searchsorted(self._ends, numbers, side="right")
        piece = numbers - np.where(document > 0, self._ends[document - 1], 0)
        within = piece[:, None] * self._room + offsets
        return np.broadcast_to(document[:, None], within.shape), within


def _side(store: TokenStore, split: Split, fraction: float) -> NDArray[np.bool_]:
    """Which documents are in ``split``; the hashes are read only where they decide something."""
    if split == "all" or fraction in (0, 1):
        everything = split == "all" or (split == "heldout") == (fraction == 1)
        return np.full(store.n_documents, everything)
    heldout = store.document_hashes < np.uint64(fraction * 2**64)
    return heldout if split == "heldout" else ~heldout


def _empty_split(store: TokenStore, split: Split, fraction: float, n_texts: int) -> UserError:
    if n_texts == 0:
        return UserError(f"{store.path}: holds no tokens; give a corpus with text in it")
    what = "is held out" if split == "heldout" else f"is left for split={split}"
    remedy = {"heldout": "raise", "train": "lower"}.get(split, "change")
    return UserError(
        f"{store.path}: none of its {n_texts} documents {what} at data.heldout_fraction={fraction}; {remedy} "
        "data.heldout_fraction or give more documents"
    )


def _prefix(values: NDArray, value: int | bool) -> NDArray:
    return np.concatenate([np.full((len(values), 1), value, dtype=values.dtype), values], axis=1)
