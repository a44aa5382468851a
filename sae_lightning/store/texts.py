"""Texts as they were, cut where their tokens end: exact source characters for every token."""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Strings:
    """Byte strings one after the other: ``data [bytes] uint8``, ``starts [n + 1] int64``; memory-mapped."""

    def __init__(self, data: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        self.data, self.starts = data, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def raw(self, i: int, first: int = 0, last: int | None = None) -> bytes:
        """Return bytes ``first`` to ``last`` of string i, to its end for None."""
        begin = int(self.starts[i])
        end = int(self.starts[i + 1]) if last is None else begin + last
        return self.data[begin + first : end].tobytes()

    def slice(self, i: int, first: int = 0, last: int | None = None) -> str:
        """Return the same as text; they must be whole characters."""
        return self.raw(i, first, last).decode("utf-8")


def meta_bytes(meta: dict[str, str]) -> bytes:
    """Return what is known of a text as the bytes it is kept under."""
    return json.dumps(meta, ensure_ascii=True).encode("ascii")


class Cutter:
    """Finds where each token of a text ends, in bytes of its UTF-8.

    The ends tile the text: what a tokenizer drops between two tokens (spaces, an ignored character) goes to the later
    one, a character that several tokens share to the first of them, what follows the last token to that. So the pieces
    of all tokens, joined, are the text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            # A copy: padding and truncation of the caller's tokenizer must neither act here nor be changed.
            backend = type(backend).from_str(backend.to_str())
            backend.no_padding()
            backend.no_truncation()
        self._backend: Any = backend

    def ids_and_ends(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return (ids, ends) of a whole text, both [n]; None for a tokenizer that does not tell where tokens lie."""
        if self._backend is None:
            return None
        found = self._backend.encode(text, add_special_tokens=False)
        ids = np.array(found.ids, np.int64)
        ends = np.array([end for _, end in found.offsets], np.int64)
        if len(ends):
            ends = np.maximum.accumulate(ends)
            ends[-1] = len(text)
        return ids, self._in_bytes(text, ends)

    def ends_of(self, text: str, ids: NDArray[np.integer]) -> NDArray[np.int64] | None:
        """Return the ends of the text's first ``len(ids)`` tokens; None where the text does not give these ids."""
        found = self.ids_and_ends(text)
        if found is None or len(found[0]) < len(ids) or not np.array_equal(found[0][: len(ids)], ids):
            return None
        return found[1][: len(ids)]

    def gives(self, text: str, ids: NDArray[np.integer]) -> bool:
        """Tell whether a text begins with these ids, as a tokenizer says that does not tell where tokens lie."""
        found = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(found[: len(ids)]) == ids.tolist()

    def decoded(self, ids: NDArray[np.integer]) -> tuple[str, NDArray[np.int64]]:
        """Return (text, ends) of ids whose text is not at hand: the ids decoded, and cut as the text gives them again.

        Where the decoded text gives other ids (some bytes that are no UTF-8), every id is decoded by itself.
        """
        text = str(self._tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))
        ends = self.ends_of(text, ids)
        if ends is not None and (not len(ends) or ends[-1] == len(text.encode("utf-8"))):
            return text, ends
        pieces = [str(self._tokenizer.decode([i], clean_up_tokenization_spaces=False)) for i in ids.tolist()]
        return "".join(pieces), np.cumsum([len(piece.encode("utf-8")) for piece in pieces], dtype=np.int64)

    @staticmethod
    def _in_bytes(text: str, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        if text.isascii():
            return ends
        points = np.frombuffer(text.encode("utf-32-le"), "<u4")
        widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
        return np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])[ends]


def load_json(strings: Strings, i: int) -> dict[str, str]:
    """Return string i, a JSON object."""
    return json.loads(strings.slice(i))


@lru_cache(maxsize=8)
def words_of(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (starts, ends) in bytes of a text's words: what lies between white space."""
    import re

    spans = [match.span() for match in re.finditer(r"\S+", text)]
    edges = np.array(spans, np.int64).reshape(-1, 2)
    return Cutter._in_bytes(text, edges[:, 0]), Cutter._in_bytes(text, edges[:, 1])
