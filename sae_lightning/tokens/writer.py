"""Text in, token file out: parallel, resumable, the same bytes however often it was interrupted."""

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.core.locks import file_lock
from sae_lightning.core.progress import progress
from sae_lightning.tokens.corpus import TextSource
from sae_lightning.tokens.disk import disk_errors
from sae_lightning.tokens.encode import encoded
from sae_lightning.tokens.manifest import Manifest
from sae_lightning.tokens.partial import PartialTokenFile, discard_partial
from sae_lightning.tokens.store import TokenStore
from sae_lightning.tokens.tokenizer import tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def write_tokens(
    source: TextSource,
    tokenizer: "PreTrainedTokenizerBase",
    out: str | Path,
    *,
    vocab_size: int | None = None,
    workers: int | None = None,
    max_tokens: int | None = None,
    separator: int | Literal["auto"] = "auto",
    overwrite: bool = False,
    journal_seconds: float = 2.0,
) -> TokenStore:
    """Tokenise ``source`` into the file ``out`` and return it opened; ``.manifest`` says what was written.

    One document of the store per document of the source, in order, also where it is empty. No special tokens are
    added; text that spells one (``<|endoftext|>``) becomes that token, as the tokenizer does by default.

    vocab_size: ids of the language model (default: of the tokenizer).
    separator:  ``"auto"`` is an id outside the vocabulary: 65535 in a uint16 file, 2^32 - 1 in a uint32 file (where the
                vocabulary leaves uint16 no free id). A number may also be an id that the text never uses.
    workers:    threads (default: one a core). max_tokens: stop after the document that reaches it.

    Killed at any moment, the same call goes on from its journal (``OUT.partial/``) and the final bytes are those of
    an unbroken run. A finished file of the same text, tokenizer and options is returned as it is.

    Raises UserError: no text, an id outside ``vocab_size``, a separator that the text uses or that doesn't fit, another
    file in the way (unless ``overwrite``), a full disk.
    """
    out = Path(out).expanduser()
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens}: must be at least 1")
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: must be at least 1")
    size = vocab_size or max(tokenizer.get_vocab().values()) + 1
    dtype, chosen = choose_separator(size, separator)
    key = {
        "source": source.identity(),
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "max_tokens": max_tokens,
        "separator": chosen,
        "dtype": dtype,
    }
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(out.with_name(f".{out.name}.lock")):
            if out.exists() and not overwrite:
                _check_same(out, key)
                discard_partial(out)  # left by a kill between the rename and the clearing up
                return TokenStore.open(out)
            partial = PartialTokenFile(out, key, journal_seconds)
            try:
                seconds = _fill(partial, source, tokenizer, workers, size)
                manifest = partial.finish(size)
            finally:
                partial.close()
    _report(out, manifest, seconds)
    return TokenStore.open(out)


def choose_separator(vocab_size: int, separator: int | Literal["auto"]) -> tuple[str, int]:
    """Return (dtype, separator id) for a vocabulary, uint16 where both fit."""
    if separator == "auto":
        return ("uint16", 0xFFFF) if vocab_size <= 0xFFFF else ("uint32", 0xFFFF_FFFF)
    if not 0 <= separator <= 0xFFFF_FFFF:
        raise UserError(f"separator={separator}: must be 'auto' or an id between 0 and {0xFFFF_FFFF}")
    return ("uint16" if max(vocab_size - 1, separator) <= 0xFFFF else "uint32"), separator


def _fill(
    partial: PartialTokenFile,
    source: TextSource,
    tokenizer: "PreTrainedTokenizerBase",
    workers: int | None,
    vocab_size: int,
) -> float:
    """Append what is missing; return the seconds it took."""
    separator, max_tokens = partial.key["separator"], partial.key["max_tokens"]
    by_tokens = max_tokens is not None
    began, before = time.monotonic(), partial.written.tokens
    try:
        with progress(f"tokenising {source}", max_tokens if by_tokens else source.n_documents) as advance:
            advance(before if by_tokens else partial.written.documents)
            if not (by_tokens and before >= max_tokens):
                for documents in encoded(source, partial.written.documents, tokenizer, workers):
                    was = partial.written
                    kept = _until(documents, max_tokens, was.tokens)
                    for number, ids in enumerate(kept, start=was.documents):
                        _check_document(number, ids, separator, vocab_size, source)
                    partial.append([ids.astype(partial.dtype) for ids in kept])
                    now = partial.written
                    speed = (now.tokens - before) / max(time.monotonic() - began, 1e-9)
                    note = f"{now.documents:,} documents, {now.tokens:,} tokens, {speed:,.0f} tokens/s"
                    advance(now.tokens - was.tokens if by_tokens else len(kept), note)
                    if by_tokens and now.tokens >= max_tokens:
                        break
    except BaseException:
        # Stopped by the user or by a bad document: keep all that is appended. A full disk must not hide the reason.
        with suppress(OSError):
            partial.checkpoint()
        raise
    if partial.written.tokens == 0:
        discard_partial(partial.out)
        raise UserError(f"{source}: holds no text to tokenise; give a corpus with at least one non-empty document")
    return time.monotonic() - began


def _until(documents: list[NDArray], max_tokens: int | None, tokens: int) -> list[NDArray]:
    """The documents up to and with the one that reaches ``max_tokens``."""
    if max_tokens is None:
        return documents
    totals = tokens + np.cumsum([len(ids) for ids in documents])
    return documents[: int(np.searchsorted(totals, max_tokens)) + 1]


def _check_document(number: int, ids: NDArray, separator: int, vocab_size: int, source: TextSource) -> None:
    if not len(ids):
        return
    if (ids == separator).any():
        raise UserError(
            f"separator={separator}: document {number} of {source} uses this id; take separator=auto or another id"
        )
    if (highest := int(ids.max())) >= vocab_size:
        raise UserError(
            f"document {number} of {source}: the tokenizer gives id {highest}, the vocabulary has {vocab_size}; use "
            "the tokenizer of this language model"
        )


def _check_same(out: Path, key: dict[str, object]) -> None:
    """Refuse to take a file for the one asked for when it is another."""
    manifest = Manifest.load(out)
    if manifest is None:
        raise UserError(f"{out}: exists and is no token file of ours; choose another name or pass overwrite=true")
    if differing := [name for name, value in key.items() if getattr(manifest, name) != value]:
        raise UserError(
            f"{out}: was made with another {', '.join(differing)}; choose another name or pass overwrite=true"
        )


def _report(out: Path, manifest: Manifest, seconds: float) -> None:
    logger.info(
        "%s: %s documents, %s tokens, %s, separator %d (%s), %.1f s",
        out,
        f"{manifest.documents:,}",
        f"{manifest.tokens:,}",
        manifest.dtype,
        manifest.separator,
        "outside the vocabulary" if manifest.separator >= manifest.vocab_size else "never used by the text",
        seconds,
    )
