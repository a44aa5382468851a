"""Writing token files: the ids are the tokenizer's, and no interruption leaves a trace in the bytes."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.tokens import (
    Document,
    ListSource,
    TextSource,
    TokenStore,
    byte_tokenizer,
    encode,
    tokenized_store,
    tokenizer_hash,
    write_tokens,
)
from sae_lightning.tokens.writer import choose_separator

from .conftest import SIDECARS, some_texts


def test_a_store_holds_the_bytes_of_every_text_in_order(tmp_path: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(encode, "_BATCH_DOCUMENTS", 7)
    texts = some_texts(200)
    store = write_tokens(ListSource(texts), tokenizer, tmp_path / "x.bin", workers=3)
    assert [bytes(store.document(i).astype(np.uint8)).decode() for i in range(200)] == texts
    manifest = store.manifest
    assert manifest is not None
    assert (manifest.dtype, manifest.separator, manifest.documents) == ("uint16", 65535, 200)
    assert manifest.tokens == store.n_tokens == sum(len(text.encode()) for text in texts)
    # The sidecars equal what a pass over the bare file finds.
    bare = TokenStore(store.path, store.dtype, store.separator, None)
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    assert (store.starts == bare.starts).all()
    assert (store.document_hashes == bare.document_hashes).all()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(f"x.bin{s}" for s in SIDECARS)


def test_empty_texts_keep_their_number(tmp_path: Path, tokenizer) -> None:
    store = write_tokens(ListSource(["", "ab", "", "", "c", ""]), tokenizer, tmp_path / "x.bin")
    assert [len(store.document(i)) for i in range(store.n_documents)] == [0, 2, 0, 0, 1, 0]


def test_a_special_token_in_the_text_is_that_token_and_no_end_of_document(tmp_path: Path, tokenizer) -> None:
    store = write_tokens(ListSource(["a<|endoftext|>b"]), tokenizer, tmp_path / "x.bin")
    assert store.n_documents == 1
    assert store.document(0).tolist() == [97, 256, 98]


def test_the_callers_padding_and_truncation_neither_act_nor_change(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    store = write_tokens(ListSource(["abcd", "e"]), tokenizer, tmp_path / "x.bin")
    assert [len(store.document(i)) for i in range(2)] == [4, 1]
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 2
    assert tokenizer_hash(tokenizer) == tokenizer_hash(byte_tokenizer())


def test_max_tokens_stops_after_the_document_that_reaches_it(tmp_path: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(encode, "_BATCH_DOCUMENTS", 3)
    texts = ["abcd"] * 20
    for limit, documents in ((1, 1), (4, 1), (5, 2), (32, 8), (1000, 20)):
        store = write_tokens(ListSource(texts), tokenizer, tmp_path / f"{limit}.bin", max_tokens=limit)
        assert store.n_documents == documents


@pytest.mark.parametrize(
    ("vocab", "separator", "chosen"),
    [
        (257, "auto", ("uint16", 65535)),
        (65535, "auto", ("uint16", 65535)),
        (65536, "auto", ("uint32", 2**32 - 1)),
        (128256, "auto", ("uint32", 2**32 - 1)),
        (257, 200, ("uint16", 200)),
        (257, 70000, ("uint32", 70000)),
        (65536, 0, ("uint16", 0)),
    ],
)
def test_the_separator_lies_outside_the_vocabulary(vocab: int, separator: Any, chosen: tuple[str, int]) -> None:
    assert choose_separator(vocab, separator) == chosen


def test_a_separator_the_text_uses_is_refused_and_an_unused_one_taken(tmp_path: Path, tokenizer) -> None:
    with pytest.raises(UserError, match=r"separator=98: document 1 "):
        write_tokens(ListSource(["a", "b"]), tokenizer, tmp_path / "x.bin", separator=98)
    store = write_tokens(ListSource(["a", "b"]), tokenizer, tmp_path / "x.bin", separator=256)
    assert [store.document(i).tolist() for i in range(2)] == [[97], [98]]


def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path, tokenizer) -> None:
    with pytest.raises(UserError, match=r"document 0 .* gives id 122, the vocabulary has 120"):
        write_tokens(ListSource(["az"]), tokenizer, tmp_path / "x.bin", vocab_size=120)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_refused_and_leaves_nothing(tmp_path: Path, tokenizer, texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text"):
        write_tokens(ListSource(texts), tokenizer, tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())


def test_a_finished_file_is_not_made_again_and_another_is_not_overwritten(tmp_path: Path, tokenizer) -> None:
    out = tmp_path / "x.bin"
    write_tokens(ListSource(["abc"]), tokenizer, out)
    made = out.stat().st_mtime_ns
    write_tokens(ListSource(["abc"]), tokenizer, out)
    assert out.stat().st_mtime_ns == made
    with pytest.raises(UserError, match=r"another source, max_tokens; .*overwrite"):
        write_tokens(ListSource(["abd"]), tokenizer, out, max_tokens=2)
    write_tokens(ListSource(["abd"]), tokenizer, out, overwrite=True)
    assert TokenStore.open(out).document(0).tolist() == [97, 98, 100]
    stranger = tmp_path / "y.bin"
    stranger.write_bytes(b"mine")
    with pytest.raises(UserError, match="no token file of ours"):
        write_tokens(ListSource(["abc"]), tokenizer, stranger)
    assert stranger.read_bytes() == b"mine"


class Once(ListSource):
    """Counts how often it is read through."""

    reads = 0

    def documents(self, start: int = 0) -> Iterator[Document]:
        Once.reads += 1
        time.sleep(0.1)
        return super().documents(start)


def test_several_at_once_tokenise_once(own_cache: Path, tokenizer) -> None:
    stores: list[TokenStore] = []

    def ask() -> None:
        stores.append(tokenized_store(Once(["ab", "c"]), lambda: tokenizer, tokenizer_hash(tokenizer), vocab_size=257))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({store.path for store in stores}) == 1
    assert len(stores) == 4
    assert Once.reads == 1


def test_the_cache_tells_texts_limits_and_vocabularies_apart(own_cache: Path, tokenizer) -> None:
    def place(source: TextSource, **options: Any) -> Path:
        return tokenized_store(
            source, lambda: tokenizer, tokenizer_hash(tokenizer), **({"vocab_size": 257} | options)
        ).path

    places = [
        place(ListSource(["ab", "c"])),
        place(ListSource(["a", "bc"])),
        place(ListSource(["ab", "c"]), max_tokens=1),
        place(ListSource(["ab", "c"]), vocab_size=70000),
    ]
    assert len(set(places)) == 4
    assert place(ListSource(["ab", "c"])) == places[0]
    assert all(path.is_relative_to(own_cache) for path in places)


def test_a_cut_or_broken_file_is_named(tmp_path: Path, tokenizer) -> None:
    out = tmp_path / "x.bin"
    write_tokens(ListSource(["abcdef"]), tokenizer, out)
    with pytest.raises(UserError, match=r"contradict its manifest \(uint16, 65535\)"):
        TokenStore.open(out, separator=3)
    with out.open("r+b") as file:
        file.truncate(4)
    with pytest.raises(UserError, match="4 bytes, its manifest says 14"):
        TokenStore.open(out)
    (tmp_path / "x.bin.json").write_text("{")
    with pytest.raises(UserError, match="no manifest"):
        TokenStore.open(out)


def test_sidecars_that_do_not_fit_are_not_believed(tmp_path: Path, own_cache: Path, tokenizer) -> None:
    out = tmp_path / "x.bin"
    write_tokens(ListSource(["ab", "cde", "f"]), tokenizer, out)
    np.save(f"{out}.offsets.npy", np.array([0, 1, 7, 9]))
    np.save(f"{out}.hashes.npy", np.array([1, 2], np.uint64))
    store = TokenStore.open(out)
    assert store.starts.tolist() == [0, 3, 7, 9]
    assert store.document_hashes.tolist() == [store.document_hash(i) for i in range(3)]
    Path(f"{out}.offsets.npy").unlink()
    assert TokenStore.open(out).starts.tolist() == [0, 3, 7, 9]


def test_the_vocabulary_check_of_a_written_file_needs_no_pass(tmp_path: Path, tokenizer, monkeypatch) -> None:
    store = write_tokens(ListSource(["az"]), tokenizer, tmp_path / "x.bin")
    with pytest.raises(UserError, match="id 122 at position 1"):
        store.check_vocab(122)
    monkeypatch.setattr("sae_lightning.tokens.store.check_ids", None)
    store.check_vocab(123)
