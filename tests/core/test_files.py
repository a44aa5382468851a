"""Files are written whole or not at all."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sae_lightning.core import atomic_path, file_sha256, write_json


def entries(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_new_content_replaces_old_in_a_folder_made_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    for text in ("old", "new"):
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_text(text)
        assert path.read_text() == text
    assert entries(path.parent) == {"file.txt"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_half_way_leaves_the_old_content(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert entries(tmp_path) == {"file.txt"}


def test_a_writer_that_wrote_nothing_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_a_rename_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.mkdir()
    (path / "inside").write_text("old")
    with pytest.raises(OSError), atomic_path(path) as temporary:
        temporary.write_text("new")
    assert entries(tmp_path) == {"file.txt"}
    assert (path / "inside").read_text() == "old"


def test_two_writers_do_not_mix_and_the_last_rename_wins(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file.txt"
    with atomic_path(path) as first:
        first.write_text("first, half")
        with monkeypatch.context() as other:
            own = os.getpid()
            other.setattr(os, "getpid", lambda: own + 1)  # a second process between our write and our rename
            with atomic_path(path) as second:
                assert second != first
                second.write_text("second")
        assert path.read_text() == "second"
        first.write_text("first, whole")
    assert path.read_text() == "first, whole"
    assert entries(tmp_path) == {"file.txt"}


def test_two_processes_that_write_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    # Without torch: core.files imports nothing of it.
    script = (
        "import sys; from sae_lightning.core.files import atomic_path\n"
        "for _ in range(60):\n"
        "    with atomic_path('file.txt') as t: t.write_text(sys.argv[1] * 50_000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, letter], cwd=tmp_path) for letter in "ab"]
    seen = set()
    while any(w.poll() is None for w in writers):
        if (tmp_path / "file.txt").exists():
            seen.add((tmp_path / "file.txt").read_text())
    assert [w.wait() for w in writers] == [0, 0]
    seen.add((tmp_path / "file.txt").read_text())
    assert seen <= {"a" * 50_000, "b" * 50_000}
    assert entries(tmp_path) == {"file.txt"}


def test_json_is_readable_and_whole(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "ä": {"b": "x"}}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert '\n  "a"' in text


def test_json_with_lists_on_a_line_is_the_same_json(tmp_path: Path) -> None:
    value = {"a": [{"b": [1, [2.5, None]], "ä": {}, "c": {"d": "x\n[1]"}}, []], "e": [], "f": [True, "}"], "g": None}
    for one in (value, [1, 2], [], {}, "x", [{}]):
        write_json(tmp_path / "x.json", one, lists_on_a_line=True)
        assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == one
    write_json(tmp_path / "x.json", {"a": [{"b": [1, [2.5, None]]}]}, lists_on_a_line=True)
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    {\n      "b": [1, [2.5, null]]\n    }\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"fvu": [math.nan]}, lists_on_a_line=True)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_json_cannot_say(tmp_path: Path, number: float) -> None:
    write_json(tmp_path / "x.json", {"fvu": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"fvu": number})
    assert json.loads((tmp_path / "x.json").read_text()) == {"fvu": 0.5}
    assert entries(tmp_path) == {"x.json"}


def test_checksum(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 1000).hexdigest()
