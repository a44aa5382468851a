"""The frozen source: what is copied, once a sweep, and that a process started with it imports it and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sae_lightning.launch import frozen
from tests.conftest import ROOT


def test_the_copy_is_whole_without_compiled_files_and_says_what_it_is(tmp_path: Path) -> None:
    source = frozen.freeze(tmp_path)
    for name in ("sae_lightning", "conf"):
        files = [p.relative_to(ROOT / name) for p in (ROOT / name).rglob("*") if p.is_file()]
        of = {p for p in files if "__pycache__" not in p.parts}
        assert of == {p.relative_to(source / name) for p in (source / name).rglob("*") if p.is_file()}
    assert not list(source.rglob("__pycache__"))
    said = json.loads((source / "source.json").read_text())
    assert said["sha256"] == frozen.tree_hash({name: source / name for name in ("sae_lightning", "conf")})
    assert {"python", "torch", "sae_lightning"} <= set(said["packages"])
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_sweep_keeps_its_first_source_and_says_when_the_checkout_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = frozen.freeze(tmp_path)
    frozen.freeze(tmp_path)
    assert caplog.text == ""
    said = json.loads((source / "source.json").read_text())
    (source / "source.json").write_text(json.dumps(said | {"sha256": "of another state"}))
    (source / "sae_lightning" / "mark.txt").write_text("stays")
    assert frozen.freeze(tmp_path) == source
    assert "these jobs use the frozen one" in caplog.text
    assert (source / "sae_lightning" / "mark.txt").is_file()


@pytest.mark.parametrize("change", ["content", "name", "new file"])
def test_the_hash_sees_every_change_and_no_compiled_file(tmp_path: Path, change: str) -> None:
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    (package / "room" / "b.py").write_text("b = 1\n")
    before = frozen.tree_hash({"package": package})
    (package / "room" / "__pycache__").mkdir()
    (package / "room" / "__pycache__" / "b.pyc").write_bytes(b"compiled")
    assert frozen.tree_hash({"package": package}) == before
    if change == "content":
        (package / "room" / "b.py").write_text("b = 2\n")
    elif change == "name":
        (package / "a.py").rename(package / "c.py")
    else:
        (package / "room" / "c.py").write_text("")
    assert frozen.tree_hash({"package": package}) != before


def test_it_wins_over_the_working_folder_and_an_editable_install(tmp_path: Path) -> None:
    source, cwd = tmp_path / "source", tmp_path / "checkout"
    for folder in (source, cwd):
        shutil.copytree(ROOT / "sae_lightning", folder / "sae_lightning", ignore=shutil.ignore_patterns("__pycache__"))
    (cwd / "own_module.py").write_text("value = 7\n")
    words = [sys.executable, "-m", "sae_lightning.own_test"]
    (source / "sae_lightning" / "own_test.py").write_text(
        "import sae_lightning, own_module\nprint(sae_lightning.__file__, own_module.value)\n"
    )
    env = os.environ | frozen.job_environment(source, cwd)
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(source / "sae_lightning" / "__init__.py"), "7"]
    # The trap itself: without our variables, the working folder's package is the one that is found.
    bare = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(words, cwd=cwd, env=bare, capture_output=True, text=True, check=False)
    assert "No module named sae_lightning.own_test" in done.stderr
