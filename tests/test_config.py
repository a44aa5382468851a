"""Settings: every broken rule is one line that names the value, the rule and the remedy."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge, Le
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_lightning import command
from sae_lightning.config import (
    DataConfig,
    RunConfig,
    TokenizeConfig,
    check_arguments,
    load_config,
    save_config,
    validate,
)
from sae_lightning.core import Schedule, UserError


def raw(**changes: Any) -> dict[str, Any]:
    """Return a valid config as plain values; changes: dotted keys with __ for the dot."""
    value: dict[str, Any] = {
        "tokens": 10_000,
        "sae": {"_target_": "sae_lightning.sae.TopKSAE", "d_sae": 64, "k": 4},
        "losses": {"reconstruction": {"_target_": "sae_lightning.losses.Reconstruction"}},
        "data": {"kind": "activations", "path": "rows.npy", "batch_size": 100, "buffer_tokens": 1000},
    }
    for key, change in changes.items():
        *folders, name = key.split("__")
        node = value
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = change
    return value


def message(**changes: Any) -> str:
    """Return the one line that a config is refused with."""
    with pytest.raises(UserError) as raised:
        validate(raw(**changes))
    text = str(raised.value)
    assert "\n" not in text
    return text


# Sections


def test_a_valid_config_keeps_its_values_and_fills_in_the_rest() -> None:
    config = validate(raw(optimizer__lr=1e-4))
    assert isinstance(config, RunConfig)
    assert (config.tokens, config.sae["k"], config.optimizer.lr) == (10_000, 4, 1e-4)
    assert config.optimizer.clip == 1.0
    assert config.total_steps == 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": -5}, ["tokens=-5", "greater than or equal to 1", "set tokens"]),
        ({"tokens": "many"}, ["tokens='many'", "valid integer"]),
        ({"tokens": 1.5}, ["tokens=1.5"]),
        ({"seed": -1}, ["seed=-1", "greater than or equal to 0"]),
        ({"optimizer__lr": 0}, ["optimizer.lr=0", "greater than 0"]),
        ({"optimizer__lr": "fast"}, ["optimizer.lr='fast'", "'auto'"]),
        ({"optimizer__betas": [0.9, 1.5]}, ["optimizer.betas.1=1.5", "less than or equal to 1"]),
        ({"optimizer__typo": 1}, ["optimizer.typo: unknown key", "remove it"]),
        ({"typo": 1}, ["typo: unknown key"]),
        ({"scheduler__warmup": 2}, ["scheduler.warmup=2"]),
        ({"normalise__mode": "sqrt"}, ["normalise.mode='sqrt'", "'sqrt_d'", "'layer_norm'"]),
        ({"trainer__precision": "8"}, ["trainer.precision='8'", "bf16-mixed"]),
        ({"data__packing": "loose"}, ["data.packing='loose'", "'packed'"]),
        ({"data__heldout_fraction": 0.9}, ["data.heldout_fraction=0.9", "less than or equal to 0.5"]),
        ({"data__context_length": 1}, ["data.context_length=1", "greater than or equal to 2"]),
        ({"data__mix": 1.0}, ["data.mix=1.0"]),
        ({"data__kind": "images"}, ["data.kind='images'", "'activations'"]),
        ({"losses__l1": 3}, ["losses.l1=3", "dictionary"]),
        ({"losses__string_penalty": 3}, ["losses.string_penalty=3"]),
        ({"losses__intensity": 3}, ["losses.intensity=3"]),
        ({"callbacks__x": "y"}, ["callbacks.x='y'"]),
    ],
)
def test_each_value_has_its_rule(changes: dict[str, Any], words: list[str]) -> None:
    text = message(**changes)
    for word in words:
        assert word in text, text


def test_a_missing_value_is_asked_for() -> None:
    config = raw()
    del config["tokens"], config["data"]["kind"]
    with pytest.raises(UserError) as raised:
        validate(config)
    assert str(raised.value) == "tokens: is needed; set tokens=... | data.kind: is needed; set data.kind=..."


def test_every_broken_rule_is_named_once() -> None:
    text = message(tokens=-5, seed="x", optimizer__lr=-1)
    assert text.count("tokens=-5") == 1
    assert text.count("seed='x'") == 1
    assert "optimizer.lr=-1" in text
    assert text.count(" | ") >= 2


@pytest.mark.parametrize("value", [1e6, "1e6", 1_000_000])
def test_a_whole_number_may_be_written_as_people_do(value: Any) -> None:
    if isinstance(value, str):
        value = yaml.safe_load("x: 1.0e+6")["x"]
    assert validate(raw(tokens=value)).tokens == 1_000_000


# Rules across sections


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sae__k": 65}, ["sae.k=65", "at most sae.d_sae=64", "lower sae.k or raise sae.d_sae"]),
        ({"tokens": 99}, ["tokens=99", "data.batch_size=100", "raise tokens"]),
        (
            {"data__buffer_tokens": 150, "data__mix": 0.5},
            ["data.buffer_tokens=150", "75 rows", "data.batch_size=100", "raise data.buffer_tokens"],
        ),
        (
            {"scheduler__warmup": 0.6, "scheduler__decay": 0.5},
            ["scheduler.warmup=0.6", "scheduler.decay=0.5", "together at most 1"],
        ),
        ({"data__kind": "text"}, ["lm=none", "data=activations"]),
        ({"lm": {"name": "smollm2"}}, ["data=activations", "add lm=none"]),
    ],
)
def test_rules_across_sections(changes: dict[str, Any], words: list[str]) -> None:
    text = message(**changes)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    "changes",
    [
        {"sae__k": 64},
        {"tokens": 100},
        {"data__buffer_tokens": 200, "data__mix": 0.5},
        {"scheduler__warmup": 0.5, "scheduler__decay": 0.5},
        {"data__kind": "text", "lm": {"name": "smollm2"}},
    ],
)
def test_the_limits_themselves_are_allowed(changes: dict[str, Any]) -> None:
    assert validate(raw(**changes))


def test_total_steps_are_whole_batches_and_max_steps_cuts_them() -> None:
    assert validate(raw(tokens=1099)).total_steps == 10
    assert validate(raw(tokens=1099, trainer__max_steps=3)).total_steps == 3
    assert validate(raw(tokens=1099, trainer__max_steps=30)).total_steps == 10


def test_another_model_is_validated_by_its_own_rules() -> None:
    data = {"kind": "text"}
    assert validate({"out": "x.bin", "data": data}, TokenizeConfig).data == DataConfig(kind="text")
    with pytest.raises(UserError, match=r"out: is needed.*workers=0"):
        validate({"workers": 0, "data": data}, TokenizeConfig)


# Saved and read again


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    config = validate(raw(optimizer__betas=[0.0, 0.999], trainer__max_steps=7))
    text = save_config(config, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == text
    assert load_config(tmp_path) == config


def test_a_folder_that_is_no_run_or_whose_config_is_torn_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"resume={tmp_path}.*config.yaml"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("tokens: [1, 2\nseed: }")
    with pytest.raises(UserError, match=r"config.yaml: is no readable YAML.*restore it"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw(tokens=-1)))
    with pytest.raises(UserError, match="tokens=-1"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("")  # a disk that was full
    with pytest.raises(UserError):
        load_config(tmp_path)


# Arguments of what a node names


@dataclass
class Widget:
    """Stands for any class that a yaml may name."""

    size: Annotated[int, Ge(1), Le(9)]
    kind: Literal["round", "flat"] = "round"
    share: float = 0.5
    plan: Schedule | float = 1.0
    limit: Annotated[int, Ge(1)] | None = None
    folder: str = ""


def check(**arguments: Any) -> dict[str, Any]:
    return check_arguments(Widget, arguments, "widget", {"folder"})


def test_arguments_are_converted_and_only_those_given_come_back() -> None:
    checked = check(size=3.0, plan={"value": 2.0, "kind": "linear"})
    assert checked == {"size": 3, "plan": Schedule(2.0, "linear")}
    assert isinstance(checked["size"], int)
    assert check(size=3, limit=1e3)["limit"] == 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["widget.size: is needed", "set widget.size=..."]),
        ({"size": 0}, ["widget.size=0", "greater than or equal to 1"]),
        ({"size": 10}, ["widget.size=10", "less than or equal to 9"]),
        ({"size": 2.5}, ["widget.size=2.5", "integer"]),
        ({"size": 2, "kind": "square"}, ["widget.kind='square'", "'round' or 'flat'"]),
        ({"size": 2, "knid": "flat"}, ["widget.knid: unknown key of Widget", "did you mean 'kind'"]),
        ({"size": 2, "folder": "/"}, ["widget.folder: unknown key of Widget"]),
        ({"size": 2, "share": math.nan}, ["widget.share=nan", "finite"]),
        ({"size": 2, "share": "half"}, ["widget.share='half'", "number"]),
        ({"size": 2, "plan": {"value": 1.0, "kind": "now"}}, ["widget.plan", "now", "'two_phase'"]),
        ({"size": 2, "plan": {"value": 1.0, "warmup": 3}}, ["widget.plan", "warmup=3"]),
        ({"size": 2, "limit": 0}, ["widget.limit=0", "greater than or equal to 1"]),
    ],
)
def test_wrong_arguments_are_named_in_one_line(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        check(**arguments)
    text = str(raised.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    # No name of a branch of a union, which only pydantic knows.
    for noise in ("function-", "constrained", "literal["):
        assert noise not in text, text


# Commands


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
