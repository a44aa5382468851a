"""Transcoders, crosscoders and model diffing, from the command's config to figures of the export that it leaves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sae_lightning import command
from sae_lightning.build import build_run
from sae_lightning.build.evaluation import evaluate
from sae_lightning.build.models import build_model
from sae_lightning.config import EvaluateConfig, RunConfig, load_config, save_config, validate
from sae_lightning.core import Sites, UserError
from sae_lightning.lm import FrozenLM, loss, predicted
from sae_lightning.sae import architecture_names, fold, formats, load_sae
from sae_lightning.train import train
from tests.conftest import planted, tiny_arguments
from tests.training.test_bank import StopAt

KINDS = {
    "transcoder": ["sites=transcoder", "sites.layer=1", "sae.skip=true"],
    "crosscoder": ["sites=crosscoder", "sites.layers=[0, 1]"],
    "diff": ["sites=diff", "sites.layer=1", "+sites.tuned.options.seed=5"],
}
SITES = {
    "transcoder": (["blocks.1.mlp.hook_in"], ["blocks.1.hook_mlp_out"]),
    "crosscoder": ([f"blocks.{layer}.hook_resid_post" for layer in (0, 1)],) * 2,
    "diff": ([f"{member}/blocks.1.hook_resid_post" for member in ("base", "tuned")],) * 2,
}
SMALL = ["progress=false", "tokens=640", "evaluation.every_n_steps=0", "logger=none", "data.buffer_tokens=512"]
# Architectures of conf/model are tried all; those whose features share k keep enough of them.
K = {"topk": ["sae.k=8"], "batch_topk": ["sae.k=8"], "matryoshka": ["sae.k=8"]}


@pytest.fixture
def overrides(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return [*tiny_arguments(text_file), *SMALL]


def config(overrides: list[str], *more: str) -> RunConfig:
    return validate(command.plain(command.compose("train", [*overrides, *more])))


def evaluation(run: Path, *more: str, asked: frozenset[str] = frozenset()) -> dict[str, Any]:
    studies = "studies=[reconstruction,downstream]"
    arguments = [f"sae={run}", "tokens=512", "draws=100", "progress=false", studies, *more]
    found = evaluate(validate(command.plain(command.compose("evaluate", arguments)), EvaluateConfig), asked)
    return next(iter(found["saes"].values()))


def values(found: dict[str, Any], study: str) -> dict[str, float | None]:
    return {name: e["value"] for name, e in found["studies"][study]["estimates"].items()}


@dataclass
class HandMade:
    """Held-out windows, read and spliced without the harvester, the studies or their metrics."""

    lm: FrozenLM
    sites: Sites
    tokens: torch.Tensor
    mask: torch.Tensor
    keep: torch.Tensor
    read: dict[str, torch.Tensor]

    def fvu(self, sae) -> float:
        x = torch.cat([self.read[site] for site in self.sites.read], -1)[self.keep].float()
        y = torch.cat([self.read[site] for site in self.sites.write], -1)[self.keep].float()
        error = (y - sae(x).y_hat).double()
        return float(error.square().sum() / (y.double() - y.double().mean(0)).square().sum())

    def delta_ce(self, sae, sites: list[str]) -> float:
        """Write at ``sites`` alone what the SAE gives there; masked tokens keep what the model makes of them."""
        x = torch.cat([self.read[site] for site in self.sites.read], -1)
        y_hat = sae(x.flatten(0, 1).float()).y_hat.unflatten(0, x.shape[:2])
        widths = [self.read[site].shape[-1] for site in self.sites.write]
        by_site = dict(zip(self.sites.write, y_hat.split(widths, -1), strict=True))
        real = predicted(self.mask)
        runs = ({site: by_site[site] for site in sites}, {site: self.read[site] for site in sites})
        logits = [self.lm.logits(self.tokens, edits, keep=self.keep) for edits in runs]
        spliced, clean = (float(loss(one, self.tokens)[real].double().mean()) for one in logits)
        return spliced - clean


def hand_made(run: RunConfig, sites: Sites, harvester: Any, numbers: list[int]) -> HandMade:
    assert run.lm is not None
    lm = build_model(run.lm, run.tuned, run.stream_seed)
    batch = harvester.windows.batch(np.array(numbers))
    read = lm.activations(batch.tokens, list(dict.fromkeys([*sites.read, *sites.write])))
    x = torch.cat([read[site] for site in sites.read], -1)
    return HandMade(lm, sites, batch.tokens, batch.mask, harvester.mask.keep(batch, x), read)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", architecture_names())
def test_every_architecture_trains_exports_reloads_evaluates_and_splices(
    model: str, kind: str, overrides: list[str], tmp_path: Path
) -> None:
    made = config(overrides, f"model={model}", *KINDS[kind], *K.get(model, []))
    save_config(made, tmp_path / "run")
    run = build_run(made, tmp_path / "run")
    lane = next(iter(run.module.each_lane()))[1]
    before = {name: value.clone() for name, value in lane.sae.state_dict().items()}
    run.trainer.fit(run.module, datamodule=run.datamodule)
    assert any(not torch.equal(before[name], value) for name, value in lane.sae.state_dict().items())

    # What follows from the sites.
    sae, competes = lane.sae, model in ("topk", "batch_topk", "matryoshka", "gated")
    assert not sae.unit_norm_decoder
    assert sae.n_sites == (1 if kind == "transcoder" else 2)
    assert sae.rescale_acts_by_decoder_norm == (competes and kind != "transcoder")
    assert sae.subtract_b_dec == (kind != "transcoder")

    # The export is the lane, folded, bit for bit, and says what it is of.
    back, folded = load_sae(tmp_path / "run"), fold(lane.sae, lane.normaliser)
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in folded.state_dict().items())
    rows = run.data.heldout_rows(64)
    assert torch.equal(back(rows.x).y_hat, folded.eval()(rows.x).y_hat)
    read, write = SITES[kind]
    said = back.metadata["sites"]
    assert (said["read"], said["write"]) == (read, write)
    assert said["widths"] == [32] * len(read)
    assert said["widths_out"] == [32] * len(write)
    assert said["scale_out"] == pytest.approx(lane.normaliser.scale_out[::32].tolist())
    assert back.sample is not None
    if kind == "transcoder":
        assert not torch.equal(*back.sample)
    assert back.metadata["lm"].get("tuned", {}).get("name") == ("tiny" if kind == "diff" else None)
    for form in ("saelens", "sparsify", "dictionary_learning"):
        if kind != "transcoder":
            with pytest.raises(UserError, match="several sites"):
                formats.write(form, back, tmp_path / form)

    # Its figures, from the run folder and from the export alone, are those worked out by hand.
    found = evaluation(tmp_path / "run")
    numbers = list(range(0, 2 * found["data"]["windows"], 2))
    assert run.data.downstream is not None
    own = hand_made(made, Sites(tuple(read), tuple(write)), run.data.downstream, numbers)
    with torch.no_grad():
        assert values(found, "reconstruction")["fvu"] == pytest.approx(own.fvu(back), rel=1e-5)
        downstream = values(found, "downstream")
        for member in ("/base", "/tuned") if kind == "diff" else ("",):
            at = [site for site in write if site.startswith(member[1:])]
            assert downstream[f"delta_ce{member}"] == pytest.approx(own.delta_ce(back, at), abs=2e-5)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert ("delta_ce/tuned" in metrics["heldout"]) == (kind == "diff")


@pytest.mark.parametrize("kind", KINDS)
def test_kept_activations_give_the_bits_of_streaming_and_a_stopped_run_goes_on(
    kind: str, overrides: list[str], tmp_path: Path
) -> None:
    from sae_lightning.activations import StopRequested

    whole, kept, stopped = (tmp_path / name for name in ("whole", "kept", "stopped"))
    train(config(overrides, *KINDS[kind]), whole)
    train(config(overrides, *KINDS[kind], "data.cache=auto"), kept)
    made = config(overrides, *KINDS[kind])
    save_config(made, stopped)
    run = build_run(made, stopped)
    run.trainer.callbacks.append(StopAt(3))  # type: ignore[attr-defined]  # Lightning sets it undeclared
    with pytest.raises(StopRequested):
        run.trainer.fit(run.module, datamodule=run.datamodule)
    run.data.source.close()
    train(made, stopped, resume=True)
    reference = load_file(whole / "export" / "sae.safetensors")
    for folder in (kept, stopped):
        other = load_file(folder / "export" / "sae.safetensors")
        assert all(torch.equal(value, other[name]) for name, value in reference.items()), folder
    assert json.loads((kept / "metrics.json").read_text())["activations"] == "cache"


def test_a_bank_of_transcoders_is_its_solo_runs(overrides: list[str], tmp_path: Path) -> None:
    from sae_lightning.build import lane_configs

    arguments = [*overrides, *KINDS["transcoder"], "sae.k=8"]
    bank = config(arguments, "bank=[{sae.k: 4}, {sae.skip: false}]")
    train(bank, tmp_path / "bank", lane_configs(bank, arguments), overrides=arguments)
    for number, (own, lane) in enumerate([(["sae.k=4"], "k_4"), (["sae.skip=false"], "skip_False")]):
        solo = tmp_path / f"solo{number}"
        train(config(arguments, *own), solo)
        ours = load_file(tmp_path / "bank/lanes" / lane / "export" / "sae.safetensors")
        theirs = load_file(solo / "export" / "sae.safetensors")
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_an_export_alone_says_enough_to_be_measured(overrides: list[str], text_file: Path, tmp_path: Path) -> None:
    train(config(overrides, *KINDS["diff"]), tmp_path / "run")
    (tmp_path / "run/export").rename(tmp_path / "moved")
    text = ["data=text", f"data.path={text_file}", "data.context_length=32"]
    found = evaluation(tmp_path / "moved", *text)
    assert found["lm"]["tuned"]["sha256"] != found["lm"]["sha256"]
    assert values(found, "downstream")["delta_ce/tuned"] is not None
    with pytest.raises(UserError, match="weights are others"):
        evaluation(tmp_path / "moved", *text, "+sites.tuned.options.seed=6")
    with pytest.raises(UserError, match="two language models"):
        evaluation(tmp_path / "moved", *text, "studies=[reconstruction,ablation]", asked=frozenset(["ablation"]))


def test_stored_rows_and_their_targets_train_a_transcoder(tmp_path: Path) -> None:
    x = planted(3000, d=16, n_true=32, p=0.06)[0]
    y = np.tanh(x @ np.random.default_rng(1).standard_normal((16, 6)).astype(np.float32))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    files = [f"data.path={tmp_path / 'x.npy'}", f"data.targets={tmp_path / 'y.npy'}", "data.batch_size=256"]
    rows = ["lm=none", "data=activations", *files, "sae.d_sae=64", "sae.k=8", "progress=false", "tokens=5120"]
    made = config(rows, "optimizer.lr=0.01", "logger=none")
    folder = train(made, tmp_path / "run")
    sae = load_sae(folder)
    assert (sae.d_in, sae.d_out, sae.subtract_b_dec, sae.unit_norm_decoder) == (16, 6, False, False)
    cut = 3000 - 150
    held = torch.from_numpy(x[cut : cut + 75]), torch.from_numpy(y[cut : cut + 75])
    with torch.no_grad():
        error = held[1] - sae(held[0]).y_hat
    fvu = float(error.square().sum() / (held[1] - held[1].mean(0)).square().sum())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["heldout"]["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert fvu < 0.6
    found = evaluation(folder, "studies=[reconstruction]")
    assert values(found, "reconstruction")["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert load_config(folder).data.targets == str(tmp_path / "y.npy")
