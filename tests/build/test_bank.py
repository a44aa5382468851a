"""Banks from the command line: grids written out, lanes composed and named, mistakes that name their lane."""

from pathlib import Path

import pytest

from sae_lightning import command
from sae_lightning.build.bank import expand_grid, lane_configs, lane_names
from sae_lightning.build.checks import check_nodes
from sae_lightning.config import RunConfig, validate
from sae_lightning.core import UserError
from tests.conftest import Command

BASE = ["lm=none", "data=activations", "data.path=rows.npy", "sae.d_sae=64", "tokens=4096"]


def bank(*arguments: str) -> dict[str, RunConfig]:
    """Return the lanes of a command line, as train.py makes them."""
    overrides = expand_grid([*BASE, *arguments])
    return lane_configs(validate(command.plain(command.compose("train", overrides))), overrides)


def alone(*arguments: str) -> RunConfig:
    return validate(command.plain(command.compose("train", [*BASE, *arguments])))


def test_a_grid_is_every_combination_in_hydra_s_order() -> None:
    lanes = bank("bank=grid", "model=topk,batch_topk", "sae.k=4,8", "optimizer.lr=choice(1e-3,2e-3)")
    assert [(c.sae["_target_"].rsplit(".", 1)[1], c.sae["k"], c.optimizer.lr) for c in lanes.values()] == [
        (name, k, lr) for name in ("TopKSAE", "BatchTopKSAE") for k in (4, 8) for lr in (1e-3, 2e-3)
    ]
    assert list(lanes)[:2] == ["topk-k_4-lr_0p001", "topk-k_4-lr_0p002"]
    assert len(bank("bank=grid", "sae.k=range(2,9,2)")) == 4


def test_a_grid_leaves_everything_else_as_it_is() -> None:
    arguments = ["sae.d_sae=64", "tokens=1e5", "-cd", "x", "--cfg", "job"]
    assert expand_grid(arguments) == arguments
    assert expand_grid(["bank=grid", "sae.k=1,2", "seed=3"]) == ["seed=3", "bank=[{sae.k: 1}, {sae.k: 2}]"]


@pytest.mark.parametrize(
    "own",
    [
        ["sae.k=5"],
        ["model=standard", "sae.l1=3", "optimizer.lr=5e-5"],
        ["model=jumprelu", "losses.l0.mode=target_l0", "losses.l0.target_l0=12"],
        ["model=matryoshka", "sae.groups=[0.25, 0.75]"],
        ["normalise=rms", "scheduler=constant", "init.decoder_norm=0.2"],
        ["losses.aux_k=null", "optimizer.clip=null"],
        ["experiment=multi_topk"],
    ],
)
def test_a_lane_s_config_is_that_of_the_run_which_says_the_same(own: list[str]) -> None:
    value = "{" + ", ".join(o.replace("=", ": ", 1) for o in own) + "}"
    (lane,) = bank(f"bank=[{value}]").values()
    expected = alone(*own, "data.seed=0").model_copy(update={"name": lane.name})
    check_nodes(expected)  # which converts the values of the SAE's node, as it did the lane's
    assert lane.model_dump() == expected.model_dump()


def test_every_lane_reads_the_bank_s_stream() -> None:
    lanes = bank("seed=5", "bank=[{seed: 1}, {sae.k: 3}]")
    assert [lane.seed for lane in lanes.values()] == [1, 5]
    assert {lane.stream_seed for lane in lanes.values()} == {5}


def test_what_only_the_bank_s_architecture_knows_is_no_matter_for_a_lane_of_another() -> None:
    lanes = bank("sae.k=7", "bank=[{sae.d_sae: 32}, {model: standard, sae.l1: 2}]")
    first, second = lanes.values()
    assert (first.sae["k"], first.sae["d_sae"]) == (7, 32)
    assert "k" not in second.sae
    assert second.sae["d_sae"] == 64


def test_names_are_folders_and_tell_lanes_apart() -> None:
    lanes = [{"sae.k": 4}, {"sae.k": 4}, {"name": "my own/lane.1"}, {"model": "topk", "optimizer.lr": 0.5}]
    assert lane_names(lanes) == ["k_4", "k_4-2", "my-own-lanep1", "topk-lr_0p5"]
    # A ModuleDict takes no key that it has as an attribute.
    assert lane_names([{"name": "keys"}, {"name": "training"}]) == ["lane-keys", "lane-training"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bank=[]"], ["bank=[]", "empty"]),
        (["bank=grid"], ["bank=grid", "empty"]),
        (["bank=[{sae.k: 4}, {sae.k: 99}]"], ["bank lane 2 (k_99)", "sae.k=99", "64"]),
        (["bank=[{sae.k: 4}, {sae.d_sea: 99}]"], ["bank lane 2", "sae.d_sea", "d_sae"]),
        (["bank=[{model: topkk}]"], ["bank lane 1", "model=topkk", "batch_topk"]),
        (["bank=[{optimizer.lr: -1}]"], ["bank lane 1", "optimizer.lr", "-1"]),
        (["bank=[{data.batch_size: 64}]"], ["bank lane 1", "data.batch_size", "share"]),
        (["bank=[{tokens: 9000}]"], ["bank lane 1", "tokens", "share"]),
        (["bank=[{}]"], ["bank lane 1", "mapping"]),
        (["bank=[sae.k]"], ["bank", "dictionary"]),
        (["bank=grid", "sae.k=interval(1,3)"], ["sae.k", "axis"]),
        (["--multirun", "bank=grid", "sae.k=1,2"], ["bank=grid", "--multirun"]),
        (["add_to=nowhere", "bank=[{sae.k: 3}]"], ["add_to=nowhere", "no run folder"]),
        (["bank=[{resume: x}]"], ["bank lane 1", "resume", "no setting of a lane"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_lane(
    arguments: list[str], words: list[str], command: Command, rows_file: Path
) -> None:
    base = [] if arguments[0].startswith("add_to") else [*BASE[:2], f"data.path={rows_file}", *BASE[3:]]
    done = command("train", *base, *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line
    assert not list(rows_file.parent.glob("outputs/runs/*/config.yaml"))


def test_a_lane_that_is_wrong_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UserError, match="bank lane 1"):
        bank("bank=[{sae.k: 0}]")
