"""Token files: offsets and hashes against plain loops, what opening refuses, and that opening reads nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_lightning.core import UserError
from sae_lightning.tokens import TokenStore, scan

texts_of_ids = st.lists(st.lists(st.integers(0, 999), max_size=30), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(texts=texts_of_ids, ended=st.booleans(), chunk=st.integers(1, 40), wide=st.booleans())
def test_documents_come_back_whatever_the_chunks(make_store, texts, ended, chunk, wide) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_CHUNK", chunk)
        ended = ended or not texts[-1]
        dtype, separator = ("uint32", 2**32 - 1) if wide else ("uint16", 65535)
        store = make_store(texts, dtype=dtype, separator=separator, ended=ended)
        assert store.n_documents == len(texts)
        assert store.n_tokens == sum(map(len, texts))
        assert [store.document(i).tolist() for i in range(len(texts))] == texts
        # The chunked pass, document by document, and a file of the other width give one hash.
        direct = [scan.hash_tokens(np.array(text, np.int64)) for text in texts]
        assert store.document_hashes.tolist() == direct
        assert [store.document_hash(i) for i in range(len(texts))] == direct
    everywhere = np.arange(store.n_positions)
    place = [(t, p) for t, text in enumerate(texts) for p in range(len(text) + 1)]
    assert list(zip(*store.locate(everywhere), strict=True)) == place[: store.n_positions]


def test_hashes_tell_texts_apart() -> None:
    texts = [[], [0], [0, 0], [1], [256], [1, 0], [0, 1], [65536]]
    assert len({scan.hash_tokens(np.array(text, np.int64)) for text in texts}) == len(texts)


def test_locate_keeps_minus_one_and_refuses_the_outside(make_store) -> None:
    store = make_store([[1, 2], [3]])
    text, place = store.locate(np.array([[-1, 0], [3, 1]]))
    assert text.tolist() == [[-1, 0], [1, 0]]
    assert place.tolist() == [[-1, 0], [0, 1]]
    for outside in (-2, 5):
        with pytest.raises(IndexError):
            store.locate(np.array([outside]))


def test_offsets_are_found_once_and_again_when_the_file_changes(make_store, own_cache: Path, monkeypatch) -> None:
    store = make_store([[1, 2], [3]])
    assert store.n_documents == 2
    with monkeypatch.context() as patch:
        patch.setattr("sae_lightning.tokens.store.write_starts", None)
        assert TokenStore.open(store.path, dtype="uint16", separator=65535).n_documents == 2
    np.array([1, 65535, 65535, 2, 65535], "<u2").tofile(store.path)
    assert TokenStore.open(store.path, dtype="uint16", separator=65535).n_documents == 3
    assert not list(store.path.parent.glob("*.npy"))  # nothing beside the user's file


def test_check_vocab_names_the_first_bad_id_and_not_the_separator(make_store, monkeypatch) -> None:
    monkeypatch.setattr(scan, "_CHUNK", 4)
    store = make_store([[1, 2, 99], [3, 4, 5, 120, 130]])
    store.check_vocab(131)
    with pytest.raises(UserError, match=r"id 120 at position 7 is outside .* vocabulary of 120 .*65535"):
        store.check_vocab(120)
    with pytest.raises(UserError, match=r"id 99 at position 2"):
        store.check_vocab(99)


def test_identity_follows_the_content(make_store) -> None:
    a, b, c = make_store([[1, 2], [3]]), make_store([[1, 2], [3]]), make_store([[1, 2], [4]])
    assert a.identity() == b.identity() != c.identity()
    assert make_store([[1, 2], [3]], dtype="uint32").identity() != a.identity()


@pytest.mark.parametrize(
    ("content", "options", "named"),
    [
        (b"", {"dtype": "uint16", "separator": 0}, "is empty"),
        (b"abc", {"dtype": "uint16", "separator": 0}, "3 bytes is no whole number of uint16"),
        (b"abcdef", {"dtype": "uint32", "separator": 0}, "6 bytes"),
        (b"ab", {}, r"give data.dtype and data.separator"),
        (b"ab", {"dtype": "uint16"}, r"give data.separator"),
        (b"ab", {"dtype": "int8", "separator": 0}, r"data.dtype='int8'"),
        (b"ab", {"dtype": "uint16", "separator": 65536}, r"data.separator=65536"),
        (None, {"dtype": "uint16", "separator": 0}, "No such file"),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, content, options, named) -> None:
    path = tmp_path / "x.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=named) as caught:
        TokenStore.open(path, **options)
    assert str(path) in str(caught.value) or "data." in str(caught.value)
    assert "\n" not in str(caught.value)


HUGE = """
import resource, sys, time
import numpy as np
from sae_lightning.tokens import TokenStore, Windows
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
began = time.monotonic()
store = TokenStore.open(sys.argv[1], dtype="uint16", separator=7)
places = np.random.default_rng(0).integers(0, store.n_positions, 2000)
assert (store.take(places) == 0).all() and store.n_positions == 2**31
print("opened", peak() - before, time.monotonic() - began)
store = TokenStore.open(sys.argv[2], dtype="uint16", separator=7)
windows = Windows(store, "all", context_length=128, separator_id=0)
batch = windows.batch(np.random.default_rng(0).integers(0, len(windows), 64))
assert store.n_documents == 4, store.n_documents
print("scanned", peak() - before, time.monotonic() - began)
"""


def test_a_file_larger_than_memory_is_not_loaded(tmp_path: Path, own_cache: Path) -> None:
    with open(tmp_path / "opened", "wb") as file:
        file.truncate(4 << 30)
    with open(tmp_path / "scanned", "wb") as file:
        for place in (2000, 200 << 20, 512 << 20):  # a separator each, an unended document after the last
            file.seek(place)
            file.write(b"\x07\x00")
        file.write(b"\x01\x00")
    run = subprocess.run(
        [sys.executable, "-c", HUGE, str(tmp_path / "opened"), str(tmp_path / "scanned")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for line in run.stdout.splitlines():
        name, megabytes, seconds = line.split()
        assert float(megabytes) < 120, line
        assert float(seconds) < (3 if name == "opened" else 30), line
