"""A language model that transformer_lens does not know, and one with a device of its own, from config to export."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_lightning import command
from sae_lightning.build import build_run
from sae_lightning.build import text as module
from sae_lightning.build.device import apart
from sae_lightning.config import EvaluateConfig, RunConfig, validate
from sae_lightning.evaluate import evaluate
from sae_lightning.train import train
from tests.conftest import tiny_arguments
from tests.lm.models import random_model, save


@pytest.fixture
def overrides(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    brief = ["progress=false", "tokens=1280", "sae.k=4", "logger=none", "evaluation.every_n_steps=0"]
    return [*tiny_arguments(text_file), *brief]


def config(*overrides: str) -> RunConfig:
    return validate(command.plain(command.compose("train", list(overrides))))


@pytest.mark.parametrize(
    "sites",
    [
        ["sites.read=[model.layers.1.mlp]"],
        ["sites.read=[model.layers.1.mlp:in]", "sites.write=[model.layers.1.mlp]"],
        ["sites=resid", "sites.layer=1"],
    ],
)
def test_an_unknown_architecture_trains_and_is_evaluated_at_module_paths(
    overrides: list[str], sites: list[str], tmp_path: Path
) -> None:
    folder = save(random_model("helium"), tmp_path / "model")
    arguments = [*overrides, "lm=hf", f"lm.name={folder}", "lm.dtype=float32", *sites]
    train(config(*arguments), tmp_path / "run")
    told = json.loads((tmp_path / "run/export/config.json").read_text())
    read = ["blocks.1.hook_resid_post"] if "sites=resid" in sites else [sites[0][len("sites.read=[") : -1]]
    assert told["metadata"]["sites"]["read"] == read
    arguments = [f"sae={tmp_path / 'run'}", "tokens=512", "studies=[reconstruction,downstream]", "progress=false"]
    found = evaluate(validate(command.plain(command.compose("evaluate", arguments)), EvaluateConfig), tmp_path / "out")
    assert "delta_ce" in json.dumps(found)


def test_a_model_on_another_device_is_harvested_ahead_and_the_run_is_the_same(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(*overrides), tmp_path / "here")
    monkeypatch.setattr(module, "apart", lambda *_: True)
    run = build_run(config(*overrides), tmp_path / "probe")
    assert run.data.source._prefetch is not None  # pyright: ignore[reportAttributeAccessIssue]
    train(config(*overrides), tmp_path / "apart")
    here, there = (load_file(tmp_path / name / "export/sae.safetensors") for name in ("here", "apart"))
    assert all(torch.equal(value, there[name]) for name, value in here.items())


def test_devices_apart() -> None:
    cpu = torch.device("cpu")
    assert not apart(cpu, torch.device("cpu:0"))
    assert apart(cpu, torch.device("meta"))
    assert apart(torch.device("cuda:0"), torch.device("cuda:1"))
    assert not apart(torch.device("cuda:1"), torch.device("cuda:1"))
