"""The cache command as a user runs it."""

import json
import shutil

import pytest

from sae_lightning.activations.cache import CacheRequest, ensure
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import ListSource, Windows, WindowSample, write_tokens

SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A root with two caches; tests copy it."""
    root = tmp_path_factory.mktemp("root")
    lm = FrozenLM.load("tiny")
    store = write_tokens(ListSource(["some text " * 20] * 30), lm.tokenizer, root.parent / "t.bin", vocab_size=257)
    windows = WindowSample(Windows(store, "train", context_length=16, separator_id=256), 20)
    ensure(lm, [CacheRequest(windows, SITES)], root=root, micro_batch=4)
    return root


@pytest.fixture
def root(built, tmp_path):
    return shutil.copytree(built, tmp_path / "root")


def folders(root):
    return sorted(path for path in root.iterdir() if path.is_dir())


def fails(result, *words):
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    return line


def test_list_shows_what_is_there(command, root):
    out = command("cache", "list", "--dir", str(root))
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert lines[0].split() == ["address", "lm", "site", "text", "windows", "tokens", "GB", "last", "used"]
    for folder, line in zip(folders(root), sorted(lines[1:3]), strict=True):
        assert line.startswith(folder.name)
        assert "tiny bfloat16" in line
        assert " 20 " in line
    assert {site for site in SITES if site in out.stdout} == set(SITES)
    assert lines[3].startswith("2 caches, ")


def test_verify_ends_with_1_when_something_is_damaged(command, root):
    out = command("cache", "verify", "--dir", str(root))
    assert (out.returncode, out.stderr) == (0, "")
    assert "2 caches, all whole" in out.stdout
    shard = folders(root)[0] / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    manifest = folders(root)[1] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    out = command("cache", "verify", "--dir", str(root))
    assert out.returncode == 1
    assert f"{shard}: damaged (windows 0 to 19)" in out.stdout
    assert "of format 99, this version reads format 1" in out.stdout
    out = command("cache", "list", "--dir", str(root))
    assert out.returncode == 0
    assert "unreadable or unfinished" in out.stdout


def test_prune(command, root):
    first, second = folders(root)
    out = command("cache", "prune", first.name[:10], "--dir", str(root), "--dry-run")
    assert out.returncode == 0
    assert first.name in out.stdout
    assert second.name not in out.stdout
    assert len(folders(root)) == 2
    fails(command("cache", "prune", first.name, "--dir", str(root)), "no terminal to ask", "--yes")
    out = command("cache", "prune", first.name, "--dir", str(root), "--yes")
    assert out.returncode == 0
    assert "removed 1 caches" in out.stdout
    assert folders(root) == [second]
    out = command("cache", "prune", "--older-than", "1", "--dir", str(root), "--yes")
    assert out.stdout == "nothing to remove\n"
    command("cache", "prune", "--to-gb", "0", "--dir", str(root), "--yes")
    assert folders(root) == []


def test_nothing_is_kept_yet(command, tmp_path):
    out = command("cache", "list", SAE_LIGHTNING_CACHE=str(tmp_path / "none"))
    assert out.returncode == 0
    assert "no activations are kept" in out.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lst"], ["lst", "unknown action", "list, verify, prune"]),
        (["list", "--dir", "nowhere"], ["nowhere", "no such folder", "data.cache_dir"]),
        (["prune", "--to-gb", "-1"], ["--to-gb", "'-1'", "at least 0"]),
        (["prune", "--to-gb", "nan"], ["--to-gb", "'nan'"]),
        (["verify", "--fast"], ["--fast", "--help"]),
        (["data.cache=off"], ["data.cache=off", "data.cache=auto"]),
        (["lm=none", "data=activations", "data.path=rows.npy"], ["data=activations", "give text"]),
        (["tokens=5"], ["tokens=5", "data.batch_size"]),
    ],
)
def test_mistakes_are_one_line(command, arguments, words):
    fails(command("cache", *arguments), *words)


def test_prune_needs_to_be_told_what(command, root):
    fails(command("cache", "prune", "--dir", str(root)), "nothing says what may go", "--older-than")
    fails(command("cache", "prune", "zz", "--dir", str(root), "--yes"), "zz", "names no cache")


def test_help_of_each(command):
    assert "verify" in command("cache", "--help").stdout
    out = command("cache", "prune", "--help")
    assert out.returncode == 0
    assert "--to-gb" in out.stdout
