"""Writing that is killed, stopped by bad text or by a full disk: it goes on, and the bytes are those of one go."""

import errno
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.tokens import (
    Document,
    ListSource,
    encode,
    partial,
    write_tokens,
)

from .conftest import SIDECARS, some_texts

KILLED = """
import sys, time
from types import SimpleNamespace
from tokenizers import Tokenizer
from sae_lightning.tokens import ListSource, encode, write_tokens

class Slow(ListSource):
    def documents(self, start=0):
        for document in super().documents(start):
            time.sleep(0.0005)
            yield document

encode._BATCH_DOCUMENTS = 5
backend = Tokenizer.from_str(open(sys.argv[2]).read())
tokenizer = SimpleNamespace(backend_tokenizer=backend, get_vocab=backend.get_vocab)
texts = open(sys.argv[3]).read().split("|")
write_tokens(Slow(texts), tokenizer, sys.argv[1], workers=2, journal_seconds=0.01)
"""


def test_killed_twice_the_bytes_equal_the_unbroken_run(tmp_path: Path, tokenizer) -> None:
    texts = some_texts(4000)
    (tmp_path / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str())
    (tmp_path / "texts").write_text("|".join(texts))
    out, journal = tmp_path / "x.bin", tmp_path / "x.bin.partial" / "journal.json"
    command = [sys.executable, "-c", KILLED, str(out), str(tmp_path / "tokenizer.json"), str(tmp_path / "texts")]
    draw = random.Random()  # any moment will do; the journal says below where it was
    done = 0
    for _ in range(2):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None and documents_in(journal) <= done:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
        assert documents_in(journal) > done
        done = documents_in(journal)
        assert not out.exists()
    assert done < 4000
    source = Counted(texts)
    write_tokens(source, tokenizer, out)
    assert source.first == done  # it went on, and did not start again
    unbroken = tmp_path / "unbroken.bin"
    write_tokens(ListSource(texts), tokenizer, unbroken)
    for suffix in SIDECARS:
        assert Path(f"{out}{suffix}").read_bytes() == Path(f"{unbroken}{suffix}").read_bytes()
    assert not journal.parent.exists()


def documents_in(journal: Path) -> int:
    try:
        return int(json.loads(journal.read_text())["written"]["documents"])
    except FileNotFoundError:
        return 0


class Counted(ListSource):
    """Remembers where it was asked to begin."""

    first = -1

    def documents(self, start: int = 0) -> Iterator[Document]:
        self.first = start
        return super().documents(start)


class Failing(Counted):
    """Breaks once, at document 50."""

    broken = False

    def documents(self, start: int = 0) -> Iterator[Document]:
        for number, document in enumerate(super().documents(start), start):
            if number == 50 and not self.broken:
                self.broken = True
                raise UserError("document 50: is bad")
            yield document


def test_a_bad_document_keeps_what_was_done(tmp_path: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(encode, "_BATCH_DOCUMENTS", 5)
    source = Failing(some_texts(100))
    with pytest.raises(UserError, match="document 50"):
        write_tokens(source, tokenizer, tmp_path / "x.bin", workers=1)
    store = write_tokens(source, tokenizer, tmp_path / "x.bin", workers=1)
    assert 0 < source.first <= 50
    assert store.n_documents == 100


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(encode, "_BATCH_DOCUMENTS", 5)
    write, calls = partial.PartialTokenFile._write, 0

    def full(self: partial.PartialTokenFile, name: str, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 32:  # in the middle of a batch: the ids fit, their ends do not
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, data)

    source = Counted(some_texts(100))
    with monkeypatch.context() as patch:
        patch.setattr(partial.PartialTokenFile, "_write", full)
        with pytest.raises(UserError, match="No space left on device"):
            write_tokens(source, tokenizer, tmp_path / "x.bin")
    write_tokens(source, tokenizer, tmp_path / "x.bin")
    assert source.first == 50
    write_tokens(ListSource(source.texts), tokenizer, tmp_path / "y.bin")
    assert (tmp_path / "x.bin").read_bytes() == (tmp_path / "y.bin").read_bytes()


def test_a_journal_of_other_text_is_not_continued(tmp_path: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(encode, "_BATCH_DOCUMENTS", 5)
    with pytest.raises(UserError):
        write_tokens(Failing(some_texts(100)), tokenizer, tmp_path / "x.bin")
    other = Counted(some_texts(100, seed=1))
    store = write_tokens(other, tokenizer, tmp_path / "x.bin")
    assert other.first == 0
    assert bytes(store.document(3).astype(np.uint8)).decode() == other.texts[3]
