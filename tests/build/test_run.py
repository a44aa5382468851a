"""From config to a run: names and folders, the optimiser's settings, and refusals before anything slow is loaded."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lightning import command
from sae_lightning.build import build_run, new_run_dir, optim_settings, run_name
from sae_lightning.build import run as module
from sae_lightning.build.checks import check_nodes
from sae_lightning.config import RunConfig, validate
from sae_lightning.core import UserError
from sae_lightning.training import memory
from sae_lightning.training.callbacks import Checkpoints, Evaluation, LiveProgress, StopSignal, find
from tests.conftest import planted

ROWS = [
    "lm=none", "data=activations", "data.batch_size=64", "tokens=640", "trainer.accelerator=cpu", "sae.d_sae=48",
]  # fmt: skip


def config(*overrides: str) -> RunConfig:
    return validate(command.plain(command.compose("train", list(overrides))))


@pytest.fixture
def rows(tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", planted(500, d=8, n_true=16, p=0.1)[0])
    return f"data.path={tmp_path / 'rows.npy'}"


# Names and folders


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "smollm2_resid9_batchtopk_f4608_k32"),
        (["model=standard", "sites=mlp_out", "sites.layer=3"], "smollm2_mlp_out3_standard_f4608"),
        (["lm=llama3_2_3b", "model=topk", "sae.k=8"], "Llama-3.2-3B_resid9_topk_f4608_k8"),
        (["sites.read=[blocks.9.hook_resid_post]"], "smollm2_blocks.9.hook_resid_post_batchtopk_f4608_k32"),
        (["sites=transcoder", "sites.layer=4"], "smollm2_mlp_in4-to-mlp_out4_batchtopk_f4608_k32"),
        (["sites=crosscoder"], "smollm2_resid8-9-10_batchtopk_f4608_k32"),
        (["sites=diff", "sites.tuned.name=/models/mine"], "smollm2_resid9-and-mine_batchtopk_f4608_k32"),
        (["lm=none", "data=activations", "data.path=/far/away/acts.npy"], "acts_rows_batchtopk_f4608_k32"),
        (["lm=hf", "lm.name=/models/my model v2/", "model=gated"], "my-model-v2_resid9_gated_f4608"),
        (["name='../../etc/a b:c'"], "..-..-etc-a-b-c"),
    ],
)
def test_a_run_s_name_says_what_it_is_and_is_safe_in_a_path(overrides: list[str], name: str) -> None:
    found = run_name(config(*overrides))
    assert found == name
    assert "/" not in found


def test_a_new_run_gets_a_folder_by_date_and_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new_run_dir(config())
    assert folder.parent == tmp_path / "outputs/runs"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_smollm2_resid9_batchtopk_f4608_k32", folder.name)
    assert not folder.exists()  # nothing is made before the config has been checked
    assert new_run_dir(config("paths.outputs=elsewhere")).parent == tmp_path / "elsewhere/runs"


def test_a_folder_that_is_asked_for_wins_and_a_sweep_has_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_run_dir(config("paths.run_dir=mine")) == tmp_path / "mine"
    assert new_run_dir(config("paths.run_dir=mine"), "sweep/0") == tmp_path / "mine"
    assert new_run_dir(config(), "sweep/0") == tmp_path / "sweep/0"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert new_run_dir(config("paths.run_dir='~/mine'")) == tmp_path / "home/mine"


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    wanted = config(f"paths.run_dir={tmp_path}")
    (tmp_path / "notes.txt").write_text("mine")
    assert new_run_dir(wanted) == tmp_path
    (tmp_path / "config.yaml").write_text("x")
    with pytest.raises(UserError, match=rf"paths.run_dir={tmp_path}: holds a run.*resume={tmp_path}"):
        new_run_dir(wanted)


# Optimiser


def test_an_automatic_learning_rate_is_worked_out_for_this_width_and_length() -> None:
    def lr(*overrides: str) -> float:
        return optim_settings(config(*long, *overrides)).lr

    long = ["data.batch_size=1000", "tokens=30_000_000", "model=batch_topk", "sae.d_sae=16384"]
    assert lr() == pytest.approx(2e-4)
    assert lr("sae.d_sae=65536") == pytest.approx(1e-4)
    assert lr("sae.d_sae=65536", "optimizer.scale_with_d_sae=false") == pytest.approx(2e-4)
    assert lr("tokens=300_000") == pytest.approx(2e-3)
    assert lr("trainer.max_steps=300") == pytest.approx(2e-3)
    assert lr("tokens=300_000", "optimizer.short_run_boost=false") == pytest.approx(2e-4)
    assert lr("model=standard") == pytest.approx(5e-5)


def test_settings_that_are_given_are_passed_on() -> None:
    found = optim_settings(
        config(
            "optimizer.lr=0.5", "optimizer.betas=[0.1,0.2]", "optimizer.eps=1e-4", "optimizer.clip=null",
            "scheduler.warmup=0.3", "scheduler.decay=0.4", "scheduler.final=0.1",
        )
    )  # fmt: skip
    assert (found.lr, found.betas, found.eps, found.clip) == (0.5, (0.1, 0.2), 1e-4, None)
    assert (found.warmup, found.decay, found.final) == (0.3, 0.4, 0.1)


# Nodes


def without(cfg: RunConfig, **changes: Any) -> RunConfig:
    return cfg.model_copy(update=changes)


def test_every_node_is_checked_against_its_class() -> None:
    good = config()
    check_nodes(good)
    sae, losses = good.sae, good.losses
    # A node may be null; these are not.
    aux_k, checkpoints, csv = (losses["aux_k"] or {}, good.callbacks["checkpoints"] or {}, good.logger["csv"] or {})
    wrong = [
        ({"sae": sae | {"threshold_rate": 7}}, ["sae.threshold_rate=7", "less than or equal to 1"]),
        ({"sae": sae | {"d_in": 7}}, ["sae.d_in: unknown key"]),
        ({"sae": sae | {"selection": "topk"}}, ["sae.selection: unknown key of BatchTopKSAE"]),
        ({"sae": sae | {"_target_": "sae_lightning.sae.NoSAE"}}, ["sae._target_=sae_lightning.sae.NoSAE"]),
        ({"sae": {"d_sae": 4}}, ["sae._target_=None", "must name a class"]),
        ({"losses": losses | {"x": {"_target_": "nowhere.Term"}}}, ["losses.x._target_=nowhere.Term"]),
        ({"losses": losses | {"aux_k": aux_k | {"k_aux": 0}}}, ["losses.aux_k.k_aux=0"]),
        ({"losses": dict.fromkeys(losses)}, ["at least one term"]),
        ({"callbacks": good.callbacks | {"dead_features": None}}, ["callbacks.dead_features=null", "leave it in"]),
        ({"init": {"scheme": "tide"}}, ["init.scheme='tide'", "'tied'"]),
        ({"init": {"seed": 3}}, ["init.seed: unknown key"]),
        ({"callbacks": good.callbacks | {"checkpoints": checkpoints | {"keep": 0}}}, ["callbacks.checkpoints.keep=0"]),
        ({"logger": {"csv": csv | {"colour": 1}}}, ["logger.csv.colour: unknown key"]),
    ]  # fmt: skip
    for changes, words in wrong:
        with pytest.raises(UserError) as raised:
            check_nodes(without(good, **changes))
        for word in words:
            assert word in str(raised.value), str(raised.value)


def test_a_null_node_is_left_out() -> None:
    check_nodes(config("losses.aux_k=null", "callbacks.nan_guard=null", "logger.csv=null"))


def test_bad_nodes_are_refused_before_data_are_touched(monkeypatch) -> None:
    def touch(*_: Any) -> None:
        raise AssertionError("data were loaded first")

    monkeypatch.setattr(module, "build_data", touch)
    with pytest.raises(UserError, match="threshold_rate"):
        build_run(config("sae.threshold_rate=7"), Path("nowhere"))


# Whole runs


def test_a_run_that_does_not_fit_is_refused_with_its_numbers(rows: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 10_000)
    with pytest.raises(UserError, match=r"memory: this run needs .* GiB more on cpu \(SAE .*lower sae.d_sae"):
        build_run(config(*ROWS, rows), tmp_path / "run")


def test_the_memory_asked_for_is_that_of_the_config(rows: str, tmp_path: Path) -> None:
    need = build_run(config(*ROWS, rows), tmp_path / "sparse").preflight.need
    parameters = 48 * (8 + 8 + 2) + 8
    assert (need.sae, need.adam, need.buffer, need.lm) == (4 * parameters, 8 * parameters, 0, 0)
    assert need.pre_activations == 1.5 * 4 * 64 * 48
    dense = build_run(config(*ROWS, rows, "model=standard"), tmp_path / "dense").preflight.need
    assert dense.pre_activations == 4 * 4 * 64 * 48


def test_a_run_has_the_callbacks_of_its_config_and_those_every_run_has(rows: str, tmp_path: Path) -> None:
    overrides = ["callbacks.checkpoints.keep=7", "evaluation.every_n_steps=3", "callbacks.nan_guard=null"]
    run = build_run(config(*ROWS, rows, *overrides, "progress=false"), tmp_path / "run")
    checkpoints, evaluation = find(run.trainer, Checkpoints), find(run.trainer, Evaluation)
    assert checkpoints is not None
    assert evaluation is not None
    assert checkpoints.keep == 7
    assert checkpoints.folder == tmp_path / "run/checkpoints"
    assert evaluation.every_n_steps == 3
    assert find(run.trainer, StopSignal) is not None
    assert find(run.trainer, LiveProgress) is None
    names = [type(c).__name__ for c in run.trainer.callbacks]
    assert "NaNGuard" not in names
    assert names.index("GradientProjection") < names.index("DecoderNorm") < names.index("DeadFeatures")
    assert names.index("DeadFeatures") < names.index("MetricsLog") < names.index("Evaluation")
    assert names.index("Export") < names.index("ScalingLog")
    assert names[-2:] == ["Checkpoints", "StopSignal"]


def test_the_same_seed_starts_from_the_same_bits_and_another_one_does_not(rows: str, tmp_path: Path) -> None:
    def start(seed: int, folder: str) -> torch.Tensor:
        run = build_run(config(*ROWS, rows, f"seed={seed}"), tmp_path / folder)
        return run.module.each_lane()[0][1].sae.W_dec.detach()

    first = start(0, "a")
    assert torch.equal(first, start(0, "b"))
    assert not torch.equal(first, start(1, "c"))


def test_held_out_rows_are_not_trained_on(rows: str, tmp_path: Path) -> None:
    run = build_run(config(*ROWS, rows, "data.heldout_fraction=0.1"), tmp_path / "run")
    source, heldout = run.data.source, run.data.heldout_file
    assert heldout is not None
    seen: set[int] = set()
    for batch, _ in zip(source, range(30), strict=False):
        seen |= set(batch.token_index.tolist())
    assert seen == set(range(450))
    assert (heldout.first, heldout.n) == (450, 50)
    assert torch.equal(run.data.heldout_rows(20).x, heldout.file.rows(np.arange(450, 470)))
    assert torch.equal(run.data.calibration_rows(20).x, heldout.file.rows(np.arange(480, 500)))
