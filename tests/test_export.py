"""The export command as a user runs it."""

import json
import os
import resource
import stat

import pytest
import torch
import yaml

from sae_lightning.core import UserError
from sae_lightning.sae import formats, save_sae
from tests.hub_stub import Hub
from tests.sae.formats.cases import make, rows

TOKEN = "hf_secretsecretsecret"
FOREIGN = ("saelens", "sparsify", "dictionary_learning")


class Touch:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.system, (f"touch {self.file}",))


@pytest.fixture
def run_dir(tmp_path):
    """A finished run: export/ with a stored sample."""
    save_sae(tmp_path / "run" / "export", make("topk"), sample=rows(200))
    return tmp_path / "run"


@pytest.fixture
def hub():
    hub = Hub(TOKEN)
    yield hub
    hub.server.shutdown()


def fails(result, *words):
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line
    return line


@pytest.mark.parametrize("form", [*FOREIGN, "sae_lightning"])
def test_export_and_back(form, command, run_dir, tmp_path):
    out = command("export", "sae=run", f"to={form}", "out=there/out", "license=mit")
    assert out.returncode == 0, out.stderr
    assert "on 200 rows (stored activations)" in out.stdout
    folder = tmp_path / "there" / "out"
    assert {p.name for p in folder.iterdir()} <= {*formats.get(form).patterns, "README.md"}
    assert [p.name for p in folder.parent.iterdir()] == ["out"]
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o044 for p in folder.iterdir())
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    assert "on 200 rows" in card
    sae = formats.read(run_dir)
    assert formats.agreement(sae, formats.read(folder), rows()).good
    if form == "saelens":
        assert (folder / "sparsity.safetensors").is_file()


def test_foreign_files_become_ours(command, tmp_path):
    sae = make("jumprelu", folded=True)
    formats.write("saelens", sae, tmp_path / "theirs")
    out = command("export", "sae=theirs", "to=sae_lightning", "out=ours")
    assert out.returncode == 0, out.stderr
    assert "(made-up activations)" in out.stdout
    back = formats.read(tmp_path / "ours")
    assert torch.equal(back(rows()).y_hat, formats.read(tmp_path / "theirs")(rows()).y_hat)
    assert back.metadata["source"] == {"format": "saelens", "version": "6.54.12"}
    assert "came from | saelens 6.54.12" in (tmp_path / "ours" / "README.md").read_text()


def test_overwrite_takes_the_place_of_an_earlier_export_only(command, run_dir, tmp_path):
    assert command("export", "sae=run", "to=saelens", "out=out").returncode == 0
    fails(command("export", "sae=run", "to=sparsify", "out=out"), "out=out", "not empty", "overwrite=true")
    assert command("export", "sae=run", "to=sparsify", "out=out", "overwrite=true").returncode == 0
    # Nothing of the other format stays: the folder can be read again.
    assert formats.read(tmp_path / "out").metadata["source"]["format"] == "sparsify"
    (tmp_path / "out" / "thesis.tex").write_text("x")
    fails(command("export", "sae=run", "to=saelens", "out=out", "overwrite=true"), "thesis.tex", "another folder")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "x"
    fails(command("export", "sae=run", "to=saelens", "out=run/export", "overwrite=true"), "read from")
    fails(command("export", "sae=run", "to=saelens", "out=run"), "read from")
    (tmp_path / "file").write_text("x")
    fails(command("export", "sae=run", "to=saelens", "out=file"), "is a file")


def test_a_refused_export_leaves_nothing_behind(command, tmp_path):
    save_sae(tmp_path / "sae", make("gated"))
    fails(command("export", "sae=sae", "to=sparsify", "out=out"), "to=sparsify", "gated", "top-k")
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["to=saelens", "out=o"], ["sae: is needed"]),
        (["sae=run", "out=o"], ["to: is needed"]),
        (["sae=run", "to=saelens"], ["out: is needed"]),
        (["sae=none", "to=saelens", "out=o"], ["none", "no such file"]),
        (["sae=run", "to=sealens", "out=o"], ["sealens", "did you mean 'saelens'"]),
        (["sae=run", "to=saelens", "out=o", "overwrite=maybe"], ["overwrite", "maybe"]),
        (["sae=run", "to=saelens", "out=o", "license=My licence"], ["license", "My licence"]),
        (["sae=run", "to=saelens", "out=o", "lisence=mit"], ["lisence", "did you mean 'license'"]),
        (["sae=run", "to=saelens", "out=o", "push='a b/c'"], ["push=a b/c", "USER/NAME"]),
        (["sae=run", "to=saelens", "out=o", "push=me/x"], ["push=me/x", "HF_HUB_OFFLINE"]),
    ],
)
def test_mistakes_are_one_line(command, run_dir, tmp_path, arguments, words):
    fails(command("export", *arguments), *words)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("damage", ["torn weights", "code", "no k", "other width"])
def test_bad_files_are_one_line(command, tmp_path, damage):
    form = "dictionary_learning" if damage == "code" else "saelens"
    folder = formats.write(form, make("topk"), tmp_path / "sae")
    config = folder / "cfg.json"
    if damage == "code":
        torch.save({"b_dec": Touch(tmp_path / "ran")}, folder / "ae.pt")
        words = ["ae.pt", "nothing in it was executed"]
    elif damage == "torn weights":
        file = folder / "sae_weights.safetensors"
        file.write_bytes(file.read_bytes()[:-9])
        words = [file.name, "torn"]
    elif damage == "no k":
        config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "k"}))
        words = ["cfg.json", "k is missing"]
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"d_sae": 41}))
        words = ["W_enc", "[12, 40]", "[12, 41]", "contradict"]
    fails(command("export", "sae=sae", "to=sae_lightning", "out=out"), *words)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def online(hub, **more):
    return {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"} | more


def push(command, hub, *arguments, **variables):
    out = command(
        "export", "sae=run", "to=saelens", "out=out", "push=me/my-sae", *arguments, **online(hub, **variables)
    )
    assert TOKEN not in out.stdout + out.stderr
    return out


def test_push(command, run_dir, tmp_path, hub):
    out = push(command, hub, "license=mit")
    assert out.returncode == 0, out.stderr
    assert f"pushed to {hub.url}/me/my-sae" in out.stdout
    there = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert hub.files == there
    made = json.loads(next(body for _, path, body in hub.requests if path == "/api/repos/create"))
    assert made.get("private") is True or made.get("visibility") == "private", made
    assert 'snapshot_download("me/my-sae")' in there["README.md"].decode()
    for data in there.values():
        assert TOKEN.encode() not in data


@pytest.mark.parametrize(
    ("mode", "words"),
    [("forbidden", ["403", "write access"]), ("no_such", ["no such repository"]), ("breaks", ["500", "***"])],
)
def test_an_upload_that_fails_is_one_line(command, run_dir, hub, mode, words):
    hub.mode = mode
    line = fails(push(command, hub), "push=me/my-sae")
    for word in words:
        assert word in line or word == "***", line


def test_no_login_and_no_network(command, run_dir, tmp_path, hub):
    home = {"HF_HOME": str(tmp_path / "home")}
    fails(push(command, hub, HF_TOKEN="", **home), "no login", "hf auth login")
    fails(push(command, hub, HF_ENDPOINT="http://127.0.0.1:9", **home), "does not answer")
    hub.token = "another"
    fails(push(command, hub, **home), "401")
    assert (tmp_path / "out").is_dir()  # of the last: it was written before the hub refused


@pytest.mark.parametrize("form", ["saelens", "dictionary_learning"])
def test_a_full_disk_is_one_line(form, command, tmp_path):
    save_sae(tmp_path / "sae", make("topk", d_in=64, d_sae=256))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        out = command("export", "sae=sae", f"to={form}", "out=out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    fails(out, "can't be written", "free space")
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def test_links_and_the_folder_one_is_in(command, run_dir, tmp_path):
    (tmp_path / "disk" / "old").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "old")
    assert command("export", "sae=run", "to=saelens", "out=link").returncode == 0
    out = command("export", "sae=run", "to=sparsify", "out=link", "overwrite=true")
    assert out.returncode == 0, out.stderr
    assert (tmp_path / "link").is_symlink()
    assert formats.read(tmp_path / "disk" / "old").metadata["source"]["format"] == "sparsify"
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["old"]
    fails(command("export", "sae=run", "to=saelens", "out=."), "out=.", "the folder you are in")


def test_the_old_export_stays_until_the_new_one_is_in_place(tmp_path, monkeypatch):
    from pathlib import Path

    from sae_lightning.sae.formats.placing import placed

    out = tmp_path / "out"
    formats.write("saelens", make("topk"), out)
    moved = Path.replace

    def broken(self, target):
        if Path(target) == out:
            raise OSError("no such luck")
        return moved(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(UserError, match="no such luck"), placed(out, True) as folder:
        formats.write("sparsify", make("topk"), folder)
    assert formats.read(out).metadata["source"]["format"] == "saelens"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_place_for_an_export(tmp_path):
    from sae_lightning.sae.formats.placing import placed

    def broken() -> None:
        with placed(tmp_path / "a" / "b", False) as folder:
            (folder / "cfg.json").write_text("x")
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        broken()
    assert list((tmp_path / "a").iterdir()) == []
    with placed(tmp_path / "a" / "b", False) as folder:
        (folder / "cfg.json").write_text("x")
    with pytest.raises(UserError, match="not empty"), placed(tmp_path / "a" / "b", False):
        pass
    assert (tmp_path / "a" / "b" / "cfg.json").read_text() == "x"
