"""The first pass of a build: which tokens a store has, what text they are of, and where in it they lie."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sae_lightning.core import UserError
from sae_lightning.core.progress import progress
from sae_lightning.store.arrays import Appended
from sae_lightning.store.texts import Cutter, meta_bytes
from sae_lightning.tokens import Document, Windows, sound

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_WINDOWS = 256


@dataclass(frozen=True)
class Corpus:
    """What is indexed: the first ``n_windows`` windows, in their order.

    tokenizer: of the language model. documents: the texts behind the token file, in its order; None for token files
    that came without them, whose ids are then decoded.
    """

    windows: Windows
    n_windows: int
    tokenizer: "Callable[[], PreTrainedTokenizerBase]"
    documents: Callable[[], Iterator[Document]] | None = None


@dataclass(frozen=True)
class Provenance:
    """How many tokens and texts were written."""

    n_tokens: int
    n_texts: int


#: Arrays of this pass, by name, with their types; ``token_ids`` is uint32 for vocabularies beyond uint16.
ARRAYS = {
    "text_index": "<i4",
    "position": "<i4",
    "ends": "<i4",
    "text_starts": "<i8",
    "document": "<i8",
    "texts": "|u1",
    "texts.starts": "<i8",
    "meta": "|u1",
    "meta.starts": "<i8",
}


def id_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_provenance(folder: Path, corpus: Corpus, vocab_size: int, show: bool = True) -> Provenance:
    """Write the arrays of this pass into ``folder``, in place of what a killed run left there.

    Raises UserError for texts that are not those of the token file.
    """
    files = {name: Appended(folder / f"{name}.npy", kind) for name, kind in ARRAYS.items()}
    files["token_ids"] = Appended(folder / "token_ids.npy", id_dtype(vocab_size))
    for name in ("text_starts", "texts.starts", "meta.starts"):
        files[name].append([0])
    cutter = Cutter(corpus.tokenizer())
    try:
        with progress("reading texts", corpus.n_windows, show) as advance:
            for text, (document, index, done) in enumerate(_with_documents(corpus)):
                _write_text(files, text, document, index, corpus, cutter)
                advance(done)
        for file in files.values():
            file.sync()
    finally:
        for file in files.values():
            file.close()
    return Provenance(files["token_ids"].length, files["document"].length)


def _write_text(
    files: dict[str, Appended],
    text: int,
    document: Document | None,
    index: NDArray[np.int64],
    corpus: Corpus,
    cutter: Cutter,
) -> None:
    store = corpus.windows.store
    ids = store.take(index)
    number, position = (int(found[0]) for found in store.locate(index[:1]))
    if document is None:
        written, ends = cutter.decoded(store.document(number).astype(np.int64))
        ends = ends[: len(ids)]
        meta: dict[str, str] = {}
    else:
        written, meta = sound(document.text), document.meta
        found = cutter.ends_of(written, ids)
        if found is None:
            if not cutter.gives(written, ids):
                raise UserError(
                    f"data: text {number} does not give the tokens that were made of it; the corpus has changed "
                    "since it was tokenised: delete its token file, or give the corpus as it was"
                )
            written, found = cutter.decoded(store.document(number).astype(np.int64))
            found = found[: len(ids)]
        ends = found
    assert position == 0, "windows begin with whole texts"
    files["token_ids"].append(ids)
    files["text_index"].append(np.full(len(ids), text))
    files["position"].append(np.arange(len(ids)))
    files["ends"].append(ends)
    files["document"].append([number])
    files["text_starts"].append([files["token_ids"].length])
    for name, data in (("texts", written.encode("utf-8")), ("meta", meta_bytes(meta))):
        files[name].append(np.frombuffer(data, np.uint8))
        files[f"{name}.starts"].append([files[name].length])


def _with_documents(corpus: Corpus) -> Iterator[tuple[Document | None, NDArray[np.int64], int]]:
    """Yield (document, token indices that are indexed of it, windows that were read for it) of each text."""
    wanted = iter(_texts(corpus))
    if corpus.documents is None:
        for _, index, done in wanted:
            yield None, index, done
        return
    documents = enumerate(corpus.documents())
    for number, index, done in wanted:
        for n, document in documents:
            if n == number:
                yield document, index, done
                break
        else:
            raise UserError(
                f"data: the corpus ends before its text {number}, which the token file has; it has changed since it "
                "was tokenised: delete its token file, or give the corpus as it was"
            )


def _texts(corpus: Corpus) -> Iterator[tuple[int, NDArray[np.int64], int]]:
    """Yield (number of the document, its token indices in the windows, windows read since the last) in order."""
    store = corpus.windows.store
    waiting: list[NDArray[np.int64]] = []
    current, done = -1, 0
    for first in range(0, corpus.n_windows, _WINDOWS):
        numbers = np.arange(first, min(first + _WINDOWS, corpus.n_windows))
        index = corpus.windows.batch(numbers).token_index.numpy().reshape(-1)
        index = index[index >= 0]
        done += len(numbers)
        if not len(index):
            continue
        document = store.locate(index)[0]
        cuts = np.flatnonzero(np.diff(document)) + 1
        for part in np.split(np.arange(len(index)), cuts):
            number = int(document[part[0]])
            if number != current and waiting:
                yield current, np.concatenate(waiting), done
                waiting, done = [], 0
            current = number
            waiting.append(index[part])
    if waiting:
        yield current, np.concatenate(waiting), done
