"""Texts to ids, batch by batch and in order, on every core."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sae_lightning.tokens.corpus import TextSource, sound

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[list[str]], list[NDArray]]

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 19


def encoded(
    source: TextSource, start: int, tokenizer: "PreTrainedTokenizerBase", workers: int | None
) -> Iterator[list[NDArray]]:
    """Yield the ids of the source's documents, batch by batch and in order, some batches ahead in other threads."""
    encode, threads = _encoder(tokenizer)
    n = min(workers or len(os.sched_getaffinity(0)), threads)
    with _one_thread_a_call(), ThreadPoolExecutor(n, thread_name_prefix="tokenise") as pool:
        ahead: deque[Future[list[NDArray]]] = deque()
        try:
            for texts in _batches(source, start):
                ahead.append(pool.submit(encode, texts))
                if len(ahead) > 2 * n:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _batches(source: TextSource, start: int) -> Iterator[list[str]]:
    texts: list[str] = []
    characters = 0
    for document in source.documents(start):
        texts.append(sound(document.text))
        characters += len(document.text)
        if len(texts) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts


def _encoder(tokenizer: "PreTrainedTokenizerBase") -> tuple[Encode, int]:
    """Return a function from texts to ids, and how many threads may call it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: [np.asarray(i) for i in tokenizer(texts, add_special_tokens=False)["input_ids"]], 1
    # A copy: padding and truncation of the caller's tokenizer must neither act here nor be changed.
    copy = type(backend).from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()

    def encode(texts: list[str]) -> list[NDArray]:
        return [np.array(e.ids, np.int64) for e in copy.encode_batch_fast(texts, add_special_tokens=False)]

    return encode, 64


@contextmanager
def _one_thread_a_call() -> Iterator[None]:
    """The tokenizer's own threads off: ours already fill the cores, and they overlap with reading and writing."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
