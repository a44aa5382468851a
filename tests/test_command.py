"""What commands share: hydra's errors in one line, missing values, exit code 2, the run folder."""

import contextlib
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_lightning import command
from sae_lightning.core import UserError


def explained(*overrides: str) -> str:
    with pytest.raises((HydraException, OmegaConfBaseException)) as raised:
        command.plain(command.compose("train", list(overrides)))
    text = command.explain(raised.value, "train", list(overrides))
    hinted = text.split("did you mean ")[-1].split(", ")
    assert len(set(hinted)) == len(hinted)
    return text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modle=topk"], ["modle: unknown key", "'model'"]),
        (["zzzz=topk"], ["zzzz: unknown key", "--help"]),
        (["model=top_k"], ["model=top_k: unknown choice", "topk", "batch_topk", "jumprelu"]),
        (["sae.d_sea=64"], ["sae.d_sea: unknown key", "'sae.d_sae'"]),
        (["lr=0.1"], ["lr: unknown", "'optimizer.lr'"]),
        (["data.path_to=x"], ["data.path_to: unknown key"]),
        (["model=standard", "sae.l_one=3"], ["sae.l_one: unknown key", "'sae.l1'"]),
        (["tokens=${nowhere}"], ["tokens", "nowhere"]),
    ],
)
def test_hydra_s_errors_are_explained(overrides: list[str], words: list[str]) -> None:
    text = explained(*overrides)
    for word in words:
        assert word in text, text


def test_a_group_of_another_command_is_not_offered() -> None:
    assert command.groups_of("tokenize") == ["lm", "data"]
    with pytest.raises(HydraException) as raised:
        command.compose("tokenize", ["model=topk"])
    assert command.explain(raised.value, "tokenize", []) == "model: unknown group; the groups are lm, data"


def test_plain_resolves_and_asks_for_what_is_missing() -> None:
    config = OmegaConf.create({"a": 1, "b": {"c": "${a}", "d": [1, "${a}"]}})
    assert command.plain(config) == {"a": 1, "b": {"c": 1, "d": [1, 1]}}
    with pytest.raises(UserError, match=r"b\.x: is needed and has no default; set b\.x=\.\.\."):
        command.plain(OmegaConf.create({"a": 1, "b": {"x": "???"}}))


def test_dotted_keys_leave_out_targets() -> None:
    value = {"a": 1, "b": {"_target_": "x", "c": {"d": 2}}}
    assert command.dotted(value) == ["a", "b", "b.c", "b.c.d"]
    assert command.dotted(value, wanted="2") == []
    assert command.dotted({"a": "???", "b": {"c": "???"}, "d": 1}, wanted="???") == ["a", "b.c"]


def test_failing_is_one_line_on_stderr_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.fail("a value:\n   its rule;  the remedy")
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: a value: its rule; the remedy\n"
    assert captured.out == ""


# The run folder while it is made


def in_folder(folder: Path, *, keep: bool, error: type[Exception] | None) -> None:
    with command.run_folder(folder, keep=keep):
        (folder / "config.yaml").write_text("x")
        if error is not None:
            raise error("no")


def test_a_folder_made_for_nothing_is_removed_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with pytest.raises(UserError):
        in_folder(folder, keep=False, error=UserError)
    assert not folder.exists()


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_a_folder_stays_after_success_and_after_a_fault_of_ours(tmp_path: Path, error: type[Exception] | None) -> None:
    folder = tmp_path / "one"
    with contextlib.suppress(RuntimeError):
        in_folder(folder, keep=False, error=error)
    assert (folder / "config.yaml").exists()


def test_a_folder_that_held_something_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/thesis.txt").write_text("precious")
    with pytest.raises(UserError):
        in_folder(tmp_path / "one", keep=False, error=UserError)
    assert (tmp_path / "one/thesis.txt").read_text() == "precious"
    (tmp_path / "two").mkdir()
    with pytest.raises(UserError):
        in_folder(tmp_path / "two", keep=True, error=UserError)
    assert (tmp_path / "two").exists()
