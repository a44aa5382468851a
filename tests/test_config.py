"""Settings: every broken rule is one line that names the value, the rule and the remedy."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge, Le

from sae_lightning.config import (
    DataConfig,
    RunConfig,
    TokenizeConfig,
    load_config,
    save_config,
    validate,
    with_absolute_paths,
)
from sae_lightning.core import Schedule, UserError
from sae_lightning.validation import check_arguments


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
        ({"optimizer__betas": [0.9, 1.5]}, ["optimizer.betas.1=1.5", "less than 1"]),
        ({"optimizer__lr": math.nan}, ["optimizer.lr=nan", "finite"]),
        ({"optimizer__eps": math.inf}, ["optimizer.eps=inf", "finite"]),
        ({"seed": 2**32}, ["seed=4294967296"]),
        ({"name": ""}, ["name=''"]),
        ({"paths__run_dir": ""}, ["paths.run_dir=''"]),
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

TEXT = {"data__kind": "text", "lm": {"name": "smollm2"}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sae__k": 65}, ["sae.k=65", "at most sae.d_sae=64", "lower sae.k or raise sae.d_sae"]),
        ({"tokens": 99}, ["tokens=99", "data.batch_size=100", "raise tokens"]),
        (
            {"data__buffer_tokens": 150, "data__mix": 0.5, **TEXT},
            ["data.buffer_tokens=150", "75 rows", "data.batch_size=100", "raise data.buffer_tokens"],
        ),
        (
            {"scheduler__warmup": 0.6, "scheduler__decay": 0.5},
            ["scheduler.warmup=0.6", "scheduler.decay=0.5", "together at most 1"],
        ),
        ({"data__kind": "text"}, ["lm=none", "data=activations"]),
        ({"data__path": None}, ["data.path: is needed", "set data.path=..."]),
        ({"trainer__devices": 3}, ["data.batch_size=", "a multiple of trainer.devices=3"]),
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
        {"data__buffer_tokens": 200, "data__mix": 0.5, **TEXT},
        {"data__buffer_tokens": 150, "data__mix": 0.5},  # a file of activations needs no buffer
        {"scheduler__warmup": 0.5, "scheduler__decay": 0.5},
        TEXT,
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
    with pytest.raises(UserError, match=f"{tmp_path}/config.yaml: holds no settings; restore it"):
        load_config(tmp_path)


def test_paths_that_are_there_become_absolute_and_names_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.npy", "corpus", "smollm2"):
        (tmp_path / name).mkdir()
    config = with_absolute_paths(validate(raw(data__heldout="gone.npy")))
    assert config.data.path == str(tmp_path / "rows.npy")
    assert config.data.heldout == "gone.npy"
    source = {"_target_": "sae_lightning.tokens.TextFileSource", "path": "corpus", "field": "corpus"}
    config = with_absolute_paths(validate(raw(**TEXT, data__source=source)))
    assert config.data.source == {**source, "path": str(tmp_path / "corpus")}
    assert config.lm is not None
    assert config.lm.name == "smollm2"  # the embedded model, whatever lies in this folder
    config = with_absolute_paths(validate(raw(**{**TEXT, "lm": {"name": "./corpus"}})))
    assert config.lm is not None
    assert config.lm.name == str(tmp_path / "corpus")


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
