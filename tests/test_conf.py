"""Every yaml in conf/ composes, validates and instantiates what it names; a file added later is checked as well."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel

from sae_lightning import command
from sae_lightning.build import Run, build_objective, build_run, build_sae, make
from sae_lightning.build.evaluation import build_studies, check_studies
from sae_lightning.build.instantiate import check_node, target_of
from sae_lightning.build.interpreting import GIVEN as GIVEN_PARTS
from sae_lightning.build.layout import Layout
from sae_lightning.config import (
    AnalyzeConfig,
    DataConfig,
    EvaluateConfig,
    EvaluationConfig,
    IndexConfig,
    InterpretConfig,
    LMConfig,
    NormaliseConfig,
    OptimizerConfig,
    PathsConfig,
    RunConfig,
    SchedulerConfig,
    SearchConfig,
    SitesConfig,
    SteerConfig,
    TokenizeConfig,
    TrainerConfig,
    validate,
)
from sae_lightning.core import Schedule
from sae_lightning.export import ExportConfig
from sae_lightning.lm import resolve_sites
from sae_lightning.sae import architecture_names, sae_class
from tests.conftest import ROOT, planted

CONF = ROOT / "conf"
ENTRIES = {
    "train": RunConfig,
    "cache": RunConfig,
    "tokenize": TokenizeConfig,
    "export": ExportConfig,
    "evaluate": EvaluateConfig,
    "index": IndexConfig,
    "analyze": AnalyzeConfig,
    "search": SearchConfig,
    "steer": SteerConfig,
    "interpret": InterpretConfig,
}
# What a command has no default for where any of several settings will do.
GIVEN = {
    "search": ["sae=run", "prompt=river"],
    "steer": ["sae=run", "prompt=river", "reconstruct=true"],
}
EVERYTHING = sorted((p.parent.relative_to(CONF).as_posix(), p.stem) for p in CONF.rglob("*.yaml") if p.parent != CONF)
# hydra/launcher and hydra/sweeper are chosen through launcher= and sweep=.
# Of the command that interprets, alone.
PARTS = [(g, option) for g, option in EVERYTHING if g in ("explainer", "scorer", "client")]
OPTIONS = [(g, o) for g, o in EVERYTHING if not g.startswith("hydra/") and g != "studies" and (g, o) not in PARTS]
STUDIES = [option for group, option in EVERYTHING if group == "studies"]
# Groups that need a language model to take a step (tests/build), or decide how runs are started.
NOT_A_RUN = ("lm", "data", "sites", "objective", "launcher", "sweep")
# What a user has to give where a yaml says ???.
NEEDED = {
    "data.path": "corpus",
    "lm.name": "someone/some-model",
    "out": "out.bin",
    "sae": "run",
    "store": "store",
    "to": "saelens",
}


def overrides_for(group: str, option: str) -> list[str]:
    """Return the choice and what goes with it: stored activations need no language model, model diffing two."""
    together = {
        ("data", "activations"): ["lm=none"],
        ("lm", "none"): ["data=activations"],
        ("sites", "diff"): ["sites.tuned.name=tiny"],
    }
    return [f"{group}={option}", *together.get((group, option), [])]


def composed(entry: str, overrides: list[str], **given: Any) -> dict[str, Any]:
    """Compose as the command line does, filling in what is mandatory."""
    needed = {**NEEDED, **given}
    config = command.compose(entry, overrides)
    missing = command.dotted(OmegaConf.to_container(config, resolve=False), wanted="???")
    unknown = [key for key in missing if key not in needed]
    assert not unknown, f"{overrides}: no test value for mandatory keys {unknown}; add them to NEEDED"
    return command.plain(command.compose(entry, [*overrides, *(f"{key}={needed[key]}" for key in missing)]))


def test_the_folder_is_the_one_that_commands_read() -> None:
    assert command.conf_dir() == CONF
    assert {p.stem for p in CONF.glob("*.yaml")} == set(ENTRIES)
    assert len(OPTIONS) > 30
    # Every group can be chosen on the command line, so that none lies there unread.
    defaults = OmegaConf.load(CONF / "train.yaml")["defaults"]
    chosen = {str(key) for entry in defaults if not isinstance(entry, str) for key in entry}
    assert {group for group, _ in OPTIONS} <= chosen
    assert len(STUDIES) > 5
    for group, option in EVERYTHING:
        if group.startswith("hydra/"):
            assert ({"launcher": "launcher", "sweeper": "sweep"}[group.removeprefix("hydra/")], option) in OPTIONS


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_command_composes_and_validates_as_it_is(entry: str) -> None:
    validate(composed(entry, GIVEN.get(entry, [])), ENTRIES[entry])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_it_validates_and_what_it_names_can_be_built(group: str, option: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a text\n")
    config = validate(composed("train", overrides_for(group, option), **{"data.path": tmp_path / "corpus.txt"}))
    sae = build_sae(config, Layout.of_rows(16))
    build_objective(config).check(sae)
    for name, node in config.callbacks.items():
        if node:
            make(node, f"callbacks.{name}", run_dir=str(tmp_path))
    for name, node in config.logger.items():
        if node:
            make(node, f"logger.{name}", save_dir=str(tmp_path), name=name, version="")
    if config.data.source is not None:
        source = make(config.data.source, "data.source")
        assert callable(source.documents)
    if config.lm is not None:
        assert resolve_sites(config.sites.kind, config.sites.layer, names=config.sites.read, n_layers=30)


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] in ("lm", "data")])
def test_tokenize_takes_it_too(group: str, option: str) -> None:
    config = validate(composed("tokenize", [f"{group}={option}"]), TokenizeConfig)
    assert config.out == "out.bin"


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_is_built_from_its_yaml_under_its_own_name(study: str) -> None:
    config = validate(composed("evaluate", [f"studies=[{study}]"]), EvaluateConfig)
    assert list(config.studies) == [study]
    check_studies(config)
    (made,) = build_studies(config).values()
    assert made.name == study
    node = dict(config.studies[study] or {})
    # Written in yaml for those who read it and in code for those who import it: all of them, and the same.
    signature = inspect.signature(type(made).__init__).parameters
    # A study without settings has object's constructor, with args and kwargs.
    settings = {name for name in signature if name not in ("self", "show_progress", "args", "kwargs")}
    assert settings == set(node) - {"_target_"}


@pytest.mark.parametrize(("group", "option"), PARTS)
def test_a_part_of_an_interpretation_says_what_its_class_defaults_to(group: str, option: str) -> None:
    several = group == "scorer"
    given = {"store": "store", "client.base_url": "http://127.0.0.1:1/v1", "client.model": "a-model"}
    config = validate(
        composed("interpret", [f"{group}=[{option}]" if several else f"{group}={option}"], **given), InterpretConfig
    )
    node = config.scorer[option] if several else getattr(config, group)
    if (group, option) == ("client", "none"):
        assert node is None  # nobody is asked
        return
    assert node is not None
    check_node(node, group, GIVEN_PARTS)
    assert differences(node, group) == []
    # Written in yaml for those who read it and in code for those who import it: all of them, and the same.
    assert set(inspect.signature(target_of(node, group)).parameters) - GIVEN_PARTS == set(node) - {"_target_"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conf") / "rows.npy"
    np.save(path, planted(2400, d=8, n_true=16, p=0.1)[0])
    return path


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] not in NOT_A_RUN])
def test_a_whole_run_is_built_and_takes_a_step(group: str, option: str, rows: Path, tmp_path: Path) -> None:
    overrides = [f"{group}={option}", "lm=none", "data=activations", "sae.d_sae=64", "trainer.accelerator=cpu"]
    config = validate(composed("train", overrides, **{"data.path": rows}))
    run: Run = build_run(config, tmp_path / "run")
    assert run.module.total_steps == config.total_steps
    batch = next(iter(run.datamodule.train_dataloader())).pull()
    ((_, lane),) = run.module.each_lane()
    loss = lane.step(batch, 0.5)
    loss.backward()
    assert loss.isfinite()
    grads = {name for name, p in lane.sae.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"W_enc", "W_dec", "b_dec"} <= grads
    values = run.module.each_lane()[0][1].take_averages()
    assert {f"loss/{name}" for name in lane.objective.terms} <= set(values)


def test_the_recipe_named_in_a_model_s_yaml_is_what_a_user_can_type() -> None:
    commands = [
        word
        for path in CONF.rglob("*.yaml")
        for word in path.read_text().split()
        if word.startswith(("experiment=", "+experiment="))
    ]
    assert commands
    for overrides in commands:
        assert validate(composed("train", [overrides]))


def test_a_group_chosen_with_a_misspelt_option_names_the_folder_s_files() -> None:
    for group in {group for group, _ in [*OPTIONS, *PARTS, ("studies", "")]}:
        entry = "evaluate" if group == "studies" else "interpret" if group in dict(PARTS) else "train"
        several = group in ("studies", "scorer")
        with pytest.raises(Exception) as raised:
            command.compose(entry, [f"{group}=[nothing_like_that]" if several else f"{group}=nothing_like_that"])
        message = command.explain(raised.value, entry, [])
        for name, option in [*OPTIONS, *PARTS, *(("studies", study) for study in STUDIES)]:
            if name == group:
                assert option in message


# Defaults are written twice, in yaml for those who read it and in code for those who import it: they must agree.


def test_every_architecture_has_a_yaml_of_its_name() -> None:
    assert {option for group, option in OPTIONS if group == "model"} == set(architecture_names())


# (class, argument, value): what one architecture's yaml chooses on purpose.
OWN_CHOICE = {
    ("Reconstruction", "normalise", "variance"),  # Gao et al. divide by the variance
    ("GatedL1", "decoder_norm", "None"),  # a transcoder's decoder has no unit norm
    ("OpenAIClient", "options", "{}"),  # shown as what it is, where code says None
}


def plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def same_course(a: Any, b: Any) -> bool:
    first, second = (
        v if isinstance(v, Schedule) else Schedule(**v) if isinstance(v, dict) else Schedule(v) for v in (a, b)
    )
    return all(first.at(t / 100) == pytest.approx(second.at(t / 100)) for t in range(101))


def differences(node: dict[str, Any], where: str) -> list[str]:
    """Return the arguments of a node that differ from their constructor's defaults."""
    target = target_of(node, where)
    out = []
    for name, parameter in inspect.signature(target).parameters.items():
        if name not in node or parameter.default is parameter.empty:
            continue
        yaml_value, default = node[name], plain_value(parameter.default)
        same = same_course(yaml_value, default) if name == "coefficient" else yaml_value == default
        if not same and (target.__name__, name, str(yaml_value)) not in OWN_CHOICE:
            out.append(f"{where}.{name}: {yaml_value!r} in yaml, {default!r} in {target.__name__}")
    return out


@pytest.mark.parametrize("model", [option for group, option in OPTIONS if group == "model"])
def test_a_model_s_yaml_says_what_its_classes_default_to(model: str) -> None:
    raw = composed("train", [f"model={model}"])
    assert target_of(raw["sae"], "sae") is sae_class(model)
    found = differences(raw["sae"], "sae")
    for name, node in raw["losses"].items():
        if node:
            found += differences(node, f"losses.{name}")
    assert found == []
    # Every option of the forward pass that a run may set stands in the yaml, where a reader looks for it.
    left_out = {"d_in", "d_out", "layer_norm", "subtract_b_dec", "site_widths"}
    assert set(inspect.signature(sae_class(model)).parameters) - left_out <= set(raw["sae"])


def test_the_callbacks_yaml_says_what_its_classes_default_to() -> None:
    raw = composed("train", [])
    assert [line for name, node in raw["callbacks"].items() if node for line in differences(node, name)] == []


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (NormaliseConfig, "normalise/sqrt_d"),
        (OptimizerConfig, "optimizer/adam"),
        (SchedulerConfig, "scheduler/warmup_decay"),
        (TrainerConfig, "trainer/default"),
        (EvaluationConfig, "evaluation/default"),
        (PathsConfig, "paths/default"),
        (SitesConfig, "sites/resid"),
        (DataConfig, "data/tokens"),
        (LMConfig, "lm/smollm2"),
    ],
)
def test_a_section_s_model_has_the_defaults_of_its_yaml(model: type[BaseModel], path: str) -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{path}.yaml"))
    assert isinstance(values, dict)
    required = {name: values[name] for name, field in model.model_fields.items() if field.is_required()}
    chosen = {name: None if value == "???" else value for name, value in values.items()}
    assert model.model_validate(chosen) == model(**required)
