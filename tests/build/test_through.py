"""Objectives through the model and runs that start from a trained SAE, as the command makes them."""

import json
from pathlib import Path

import pytest
import torch

from sae_lightning import command
from sae_lightning.build import build_run
from sae_lightning.build.lanes import build_objective
from sae_lightning.config import RunConfig, validate
from sae_lightning.core import UserError, WindowBatch
from sae_lightning.losses import LogitKL
from sae_lightning.sae import load_sae
from tests.test_bad_input import refused

BRIEF = ["tokens=1280", "evaluation.every_n_steps=0", "evaluation.downstream_tokens=0", "logger=none", "sae.k=4"]


def config(arguments: list[str]) -> RunConfig:
    return validate(command.plain(command.compose("train", arguments)))


@pytest.mark.parametrize("model", ["standard", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"])
def test_every_architecture_trains_end_to_end(model: str, tiny_run: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_run, f"model={model}", "tokens=640", "evaluation.every_n_steps=0", "logger=none"]
    run = build_run(config([*arguments, "objective=e2e_recon", "objective.block_mse=0.1"]), tmp_path)
    before = run.module.each_lane()[0][1].sae.W_enc.detach().clone()
    run.trainer.fit(run.module, datamodule=run.datamodule)
    lane = run.module.each_lane()[0][1]
    assert {"logit_kl", "block_mse"} <= set(lane.figures.terms)
    assert float(lane.figures.terms["logit_kl"]) > 0
    assert torch.isfinite(lane.sae.W_enc).all()
    assert not torch.equal(lane.sae.W_enc, before)
    assert int(lane.tokens_seen) > 0


def test_weights_of_an_objective(tiny_run: list[str]) -> None:
    local = build_objective(config([*tiny_run]))
    assert not local.reads_model
    both = build_objective(config([*tiny_run, "objective=e2e_recon"]))
    assert both.coefficients(0.5)["reconstruction"] == 1.0
    assert both.coefficients(0.5)["logit_kl"] == 0.1
    assert "block_mse" not in both.terms  # weight 0: not run for
    alone = build_objective(config([*tiny_run, "objective=e2e", "losses.logit_kl.direction=reverse"]))
    assert alone.coefficients(0.5)["reconstruction"] == 0.0
    term = alone.terms["logit_kl"]
    assert isinstance(term, LogitKL)
    assert term.direction == "reverse"
    later = build_objective(config([*tiny_run, "objective=e2e_recon", "objective.logit_kl=0", "objective.block_mse=1"]))
    assert set(later.terms) >= {"block_mse"}
    assert "logit_kl" not in later.terms


def test_batches_are_windows_and_begin_above_the_site(tiny_run: list[str], tmp_path: Path) -> None:
    run = build_run(config([*tiny_run, *BRIEF, "objective=e2e"]), tmp_path)
    batch = next(iter(run.data.source))
    assert isinstance(batch, WindowBatch)
    assert batch.windows.tokens.shape == (4, 32)
    assert run.module.downstream is not None
    assert run.module.downstream.start == "blocks.1.hook_resid_post"
    assert "downstream" not in str(run.module.state_dict().keys())
    assert not any("lm" in name for name, _ in run.module.named_modules())


def test_a_lane_of_a_bank_is_its_solo_run(command, tiny_run: list[str], tmp_path: Path) -> None:
    common = [*tiny_run, *BRIEF, "model=topk", "objective=e2e_recon", "progress=false", "data.seed=3"]
    # They share the runs of the model, and each compares its own layers alone.
    common += ["objective.block_mse=0.1", "+lm.options.n_layers=5"]
    lanes = "bank=[{name: weak, objective.block_layers: [3, 4]}, {name: strong, objective.block_layers: [2]}]"
    for name, more in (("bank", [lanes]), ("solo", ["objective.block_layers=[2]"])):
        done = command("train", *common, *more, f"paths.run_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    strong, solo = load_sae(tmp_path / "bank/lanes/strong"), load_sae(tmp_path / "solo")
    weak = load_sae(tmp_path / "bank/lanes/weak")
    for name, weight in solo.state_dict().items():
        assert torch.equal(strong.state_dict()[name], weight), name
    assert not torch.equal(weak.W_enc, solo.W_enc)


def test_fine_tuning_starts_where_training_ended(command, tiny_run: list[str], tmp_path: Path) -> None:
    first = [*tiny_run, *BRIEF, "model=batch_topk", f"paths.run_dir={tmp_path / 'first'}", "progress=false"]
    assert command("train", *first).returncode == 0
    trained = load_sae(tmp_path / "first")
    start = [f"init_from={tmp_path / 'first'}", "objective=e2e", "tokens=256"]
    run = build_run(config([*tiny_run, *BRIEF, "model=batch_topk", *start]), tmp_path / "second")
    lane = run.module.each_lane()[0][1].eval()
    batch = next(iter(run.data.source))
    mine = lane.normaliser.undo(lane.sae(lane.normaliser.apply(batch.x)).y_hat)
    torch.testing.assert_close(mine, trained(batch.x).y_hat, atol=1e-4, rtol=1e-4)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    tuned = load_sae(tmp_path / "second")
    assert not torch.equal(tuned.W_dec, trained.W_dec)
    # Two steps of fine-tuning leave most of what was learnt.
    assert float(torch.cosine_similarity(tuned.W_dec, trained.W_dec).detach().median()) > 0.9


RULES: list[tuple[list[str], list[str]]] = [
    (["objective=e2e", "objective.logit_kl=0"], ["objective.logit_kl=0", "objective.block_mse=0", "above 0"]),
    (["objective=e2e", "losses.logit_kl=null"], ["end-to-end objective", "above 0"]),
    (["objective=e2e_recon", "objective.logit_kl=-1"], ["objective.logit_kl", "-1"]),
    (["objective=e2e", "data.cache=only"], ["data.cache=only", "end_to_end"]),
    (["objective=e2e", "lm.dtype=float16"], ["lm.dtype=float16", "bfloat16"]),
    (["objective=e2e", "data.share=0.5"], ["data.share=0.5", "whole windows"]),
    (["objective=e2e", "objective.block_mse=0.1", "objective.block_layers=[]"], ["objective.block_layers"]),
    (["objective.logit_kl=0.1"], ["objective.logit_kl=0.1", "objective=e2e_recon"]),
    (["objective.reconstruction=0"], ["objective.reconstruction=0", "objective=e2e"]),
    (["objective=e2e", "sites=diff", "sites.tuned.name=tiny"], ["sites.diff=true", "objective=local"]),
]
BLOCK = ["objective=e2e_recon", "objective.block_mse=0.1"]
COMMANDS: list[tuple[list[str], list[str]]] = [
    (["objective=e2e", "objective.logit_kl=0"], ["objective.logit_kl=0", "above 0"]),
    ([*BLOCK, "objective.block_layers=[1]"], ["layers=1", "choose from 2"]),
    ([*BLOCK, "objective.block_layers=[9]"], ["layers=9", "choose from 2"]),
    (["objective=e2e", "losses.logit_kl.temperature=0"], ["losses.logit_kl.temperature", "0"]),
    (["objective=e2e", "data.batch_size=16"], ["data.batch_size=16", "data.context_length=32"]),
    (["bank=[{objective: e2e, name: a}]"], ["objective.end_to_end=true", "all lanes share it"]),
    (["objective=end2end"], ["end2end", "e2e"]),
    (["init_from=nowhere"], ["nowhere"]),
]


@pytest.mark.parametrize(("arguments", "words"), RULES)
def test_rules(tiny_run: list[str], arguments: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        config([*tiny_run, "sae.k=4", *arguments])
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(("arguments", "words"), COMMANDS)
def test_bad_input(command, tiny_run: list[str], arguments: list[str], words: list[str]) -> None:
    refused(command("train", *tiny_run, "sae.k=4", *arguments), *words)


def trained(arguments: list[str], folder: Path) -> list[str]:
    """Train a run in this process; return what starts another one from it."""
    run = build_run(config(arguments), folder)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    return [*arguments, f"init_from={folder}"]


def test_an_sae_that_does_not_fit(command, tiny_run: list[str], tmp_path: Path) -> None:
    start = trained([*tiny_run, *BRIEF, "model=topk", "tokens=256"], tmp_path / "first")
    for own, words in (
        (["model=batch_topk"], "its model is topk, this run's is batch_topk"),
        (["sites.layer=0"], "blocks.1.hook_resid_post, this run reads blocks.0.hook_resid_post"),
        (["data.seed=5"], "whose weights are others"),  # another tiny model
    ):
        with pytest.raises(UserError, match=f"init_from=.*{words}"):
            build_run(config([*start, *own]), tmp_path / "second")
    refused(command("train", *start, "sae.d_sae=128"), "init_from", "sae.d_sae", "64", "128")


def test_a_layer_norm_sae_goes_on_under_layer_norm_alone(tiny_run: list[str], tmp_path: Path) -> None:
    start = trained([*tiny_run, *BRIEF, "model=topk", "normalise=layer_norm", "tokens=256"], tmp_path / "first")
    for own in (["normalise=none", "normalise.centre=false"], ["normalise=sqrt_d"]):
        with pytest.raises(UserError, match="use normalise=layer_norm"):
            build_run(config([*start, *own]), tmp_path / "second")


def test_a_config_without_an_objective_is_local(tiny_run: list[str]) -> None:
    values = config(tiny_run).model_dump(mode="json")
    del values["objective"]
    assert not validate(json.loads(json.dumps(values))).objective.end_to_end
    with pytest.raises(UserError, match="measured through the language model"):
        validate({**values, "losses": {**values["losses"], "logit_kl": {"_target_": "sae_lightning.losses.LogitKL"}}})


def test_a_block_by_its_module_path_is_its_own_output() -> None:
    from sae_lightning.build.through import _last_clean_block

    assert _last_clean_block("model.layers.3") == _last_clean_block("blocks.3.hook_resid_post") == 3
    assert _last_clean_block("model.layers.3.mlp") == _last_clean_block("blocks.3.hook_mlp_out") == 2
