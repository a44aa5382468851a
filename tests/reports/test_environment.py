"""The environment report: enough to repeat a run, nothing that a published folder should not say."""

import getpass
import json
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lightning.reports import describe_environment
from sae_lightning.reports import environment as module
from tests.conftest import ROOT


def strings(value: Any) -> list[str]:
    """Return every string of nested containers."""
    if isinstance(value, dict):
        return [s for item in value.items() for s in strings(item)]
    if isinstance(value, list | tuple):
        return [s for item in value for s in strings(item)]
    return [value] if isinstance(value, str) else []


def test_what_it_holds() -> None:
    found = describe_environment()
    assert set(found) == {"packages", "git", "machine"}
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["packages"]["python"] == platform.python_version()
    assert set(found["packages"]) == {"python", *module.PACKAGES}
    assert "not installed" not in found["packages"].values()
    machine = found["machine"]
    assert set(machine) == {
        "system", "processor", "cores", "torch_threads", "memory_gib", "gpus", "byteorder",
    }  # fmt: skip
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0.5
    assert machine["torch_threads"] == torch.get_num_threads()
    json.dumps(found, allow_nan=False)


def test_a_package_that_is_not_there_is_no_crash(monkeypatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package-here"))
    assert describe_environment()["packages"]["no-such-package-here"] == "not installed"


def test_no_variable_host_or_user_name_gets_out(monkeypatch) -> None:
    names = {"SECRET_TOKEN": "hunter2-hunter2", "HF_TOKEN": "hf_abcdefgh", "WANDB_API_KEY": "0123456789abcdef0123"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "someones-user-name")
    assert getpass.getuser() == "someones-user-name"
    monkeypatch.setenv("HOSTNAME", "someones-host-name")
    monkeypatch.setattr(socket, "gethostname", lambda: "someones-host-name")
    uname = platform.uname()
    monkeypatch.setattr(platform, "node", lambda: "someones-host-name")
    monkeypatch.setattr(platform, "uname", lambda: uname._replace(node="someones-host-name"))
    platform._platform_cache.clear()  # type: ignore[attr-defined]
    found = describe_environment()
    # A patch is source text and may hold any word; this process' variables are not in it.
    everything = "\n".join(strings(found))
    for word in (*names.values(), "someones-host-name", "someones-user-name"):
        assert word not in everything
    rest = "\n".join(strings({**found, "git": None}))
    for word in (*names, str(Path.home()), str(ROOT)):
        assert word not in rest


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    """Return a checkout of its own that the report looks at."""
    git(tmp_path, "init", "--quiet")
    for folder in ("sae_lightning/reports", "conf", "notes"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file.txt").write_text("first\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@y.z", "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "sae_lightning/reports/environment.py"))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_clean_checkout_has_its_sha_and_no_patch(checkout: Path) -> None:
    assert describe_environment()["git"] == {"sha": git(checkout, "rev-parse", "HEAD"), "patch": "", "untracked": ""}


def test_changes_to_the_source_are_in_the_patch_and_others_are_not(checkout: Path) -> None:
    (checkout / "conf/file.txt").write_text("second\n")
    (checkout / "notes/file.txt").write_text("private\n")
    (checkout / "sae_lightning/new.py").write_text("x = 1\n")
    (checkout / "private.txt").write_text("private\n")
    found = describe_environment()["git"]
    assert "-first\n+second" in found["patch"]
    assert "private" not in found["patch"]
    assert found["untracked"] == "sae_lightning/new.py\n"


def test_a_huge_patch_is_cut_and_says_so(checkout: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_MAX_PATCH", 1000)
    (checkout / "conf/file.txt").write_text("x" * 5000)
    patch = describe_environment()["git"]["patch"]
    assert patch.endswith("\n[cut]\n")
    assert len(patch) < 1100


def test_outside_a_checkout_and_without_git_there_is_none(checkout: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert describe_environment()["git"] is None
    monkeypatch.setattr(module, "__file__", "/nowhere/site-packages/sae_lightning/reports/environment.py")
    assert describe_environment()["git"] is None
