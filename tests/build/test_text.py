"""Runs on text: kept activations give the bits of streaming; the language model is read where nothing is kept."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_lightning import command
from sae_lightning.build import build_cache, build_run
from sae_lightning.build.models import build_lm
from sae_lightning.build.text import samples
from sae_lightning.config import RunConfig, load_config, save_config, validate
from sae_lightning.core import UserError
from sae_lightning.train import train
from sae_lightning.training.callbacks import Export
from tests.conftest import tiny_arguments
from tests.training.test_bank import StopAt


@pytest.fixture
def overrides(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SAE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return [*tiny_arguments(text_file), "progress=false", "tokens=2560", "sae.k=4"]


def config(overrides: list[str], *more: str) -> RunConfig:
    return validate(command.plain(command.compose("train", [*overrides, *more])))


def export(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "export" / "sae.safetensors")


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = export(one), export(other)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("more", [[], ["data.share=0.5"], ["data.packing=document", "data.seed=9"]])
def test_streamed_and_kept_runs_end_equal(overrides: list[str], more: list[str], tmp_path: Path) -> None:
    folders = {cache: tmp_path / cache for cache in ("off", "auto", "only")}
    for cache, folder in folders.items():
        train(config(overrides, f"data.cache={cache}", *more), folder)
        assert_same(folder, folders["off"])
    figures = {cache: metrics(folder) for cache, folder in folders.items()}
    assert figures["off"]["heldout"] == figures["auto"]["heldout"]
    assert figures["off"]["activations"] == "stream"
    assert figures["auto"]["activations"] == figures["only"]["activations"] == "cache"
    assert figures["only"]["lm_windows_read"] == 0
    assert figures["only"]["heldout"]["delta_ce"] is None  # the one thing that needs the language model
    assert figures["only"]["heldout"]["fvu"] == figures["off"]["heldout"]["fvu"]


def test_a_warm_cache_leaves_the_language_model_unread(overrides: list[str], tmp_path: Path) -> None:
    calm = [*overrides, "evaluation.downstream_tokens=0", "data.cache=auto"]
    cold, warm, smaller = (tmp_path / name for name in ("cold", "warm", "smaller"))
    train(config(calm), cold)
    assert metrics(cold)["lm_windows_read"] > 0
    train(config(calm, "seed=3", "data.seed=0", "sae.k=7"), warm)
    train(config(calm, "tokens=1280", "model=topk"), smaller)
    for folder in (warm, smaller):
        assert metrics(folder)["lm_windows_read"] == 0


def test_a_larger_budget_extends_what_is_there(overrides: list[str], tmp_path: Path) -> None:
    calm = [*overrides, "evaluation.downstream_tokens=0", "data.cache=auto"]
    first = {cache.folder: cache.n_windows for cache in build_cache(config(calm))}
    larger = config(calm, "tokens=4096")
    second = {cache.folder: cache.n_windows for cache in build_cache(larger)}
    assert first.keys() == second.keys()
    assert any(second[folder] > n for folder, n in first.items())
    train(larger, tmp_path / "kept")
    assert metrics(tmp_path / "kept")["lm_windows_read"] == 0
    train(config(overrides, "tokens=4096", "data.cache=off"), tmp_path / "streamed")
    assert_same(tmp_path / "kept", tmp_path / "streamed")


def test_a_stopped_kept_run_goes_on_exactly(overrides: list[str], tmp_path: Path) -> None:
    from sae_lightning.activations import StopRequested

    made = config(overrides, "data.cache=auto", "callbacks.checkpoints.every_n_steps=7")
    train(made, tmp_path / "whole")
    folder = tmp_path / "stopped"
    save_config(made, folder)
    run = build_run(made, folder)
    run.trainer.callbacks.append(StopAt(11))
    with pytest.raises(StopRequested):
        run.trainer.fit(run.module, datamodule=run.datamodule)
    run.data.source.close()
    train(load_config(folder), folder, resume=True)
    assert_same(folder, tmp_path / "whole")


def test_only_refuses_what_is_not_there_and_auto_streams_past_its_budget(
    overrides: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"data\.cache=only.*holds 0 of the"):
        train(config(overrides, "data.cache=only"), tmp_path / "only")
    assert not (tmp_path / "only").exists()
    with pytest.raises(UserError, match=r"data\.cache_max_gb=1e-06"):
        build_cache(config(overrides, "data.cache=auto", "data.cache_max_gb=1e-6"))
    with caplog.at_level("WARNING", logger="sae_lightning"):
        train(config(overrides, "data.cache=auto", "data.cache_max_gb=1e-6"), tmp_path / "streamed")
    assert any("streaming this run" in message for message in caplog.messages)
    assert metrics(tmp_path / "streamed")["activations"] == "stream"
    assert not list((tmp_path / "cache" / "activations").glob("*/shard*"))


def test_the_windows_of_a_run_follow_from_its_budget_and_no_seed(overrides: list[str]) -> None:
    def sizes(*more: str) -> tuple[int, int, str]:
        made = config(overrides, *more)
        assert made.lm is not None
        train_windows, heldout = samples(made, build_lm(made.lm, 0))
        assert train_windows.n_tokens * made.data.share >= min(
            made.tokens, train_windows.base.n_tokens * made.data.share
        )
        return len(train_windows), len(heldout), train_windows.identity()

    base = sizes("tokens=1280")
    assert sizes("tokens=1280", "seed=4", "data.seed=8") == base
    assert sizes("tokens=2560")[0] > base[0]
    assert sizes("tokens=1280", "data.share=0.5")[0] > base[0]
    assert sizes("tokens=1e7")[0] == sizes("tokens=1e8")[0]  # all there are


def test_thresholds_are_calibrated_on_windows_that_are_not_measured(overrides: list[str], tmp_path: Path) -> None:
    run = build_run(config(overrides, "data.cache=off", "evaluation.final_tokens=200"), tmp_path / "run")
    measured, calibrated = run.data.heldout_rows(200), run.data.calibration_rows(200)
    assert len(measured) == len(calibrated) == 200
    assert not (measured.x[:, None] == calibrated.x[None]).all(2).any()
    # Lightning sets callbacks without declaring them.
    export_callback = next(c for c in run.trainer.callbacks if isinstance(c, Export))  # type: ignore[attr-defined]
    assert torch.equal(torch.cat(list(export_callback.calibration())), calibrated.x)


def test_a_run_that_had_to_stream_streams_when_it_goes_on_and_a_kept_one_reads_what_was_kept(
    overrides: list[str], tmp_path: Path
) -> None:
    from sae_lightning.activations import StopRequested

    def stopped(folder: Path, budget: float) -> RunConfig:
        made = config(overrides, "data.cache=auto", f"data.cache_max_gb={budget}", "tokens=1280")
        save_config(made, folder)
        run = build_run(made, folder)
        # Lightning sets callbacks without declaring them.
        run.trainer.callbacks.append(StopAt(5))  # type: ignore[attr-defined]
        with pytest.raises(StopRequested):
            run.trainer.fit(run.module, datamodule=run.datamodule)
        run.data.source.close()
        return made

    small, large = tmp_path / "small", tmp_path / "large"
    made = stopped(small, 1e-6)
    # There is room now; its checkpoint is a place in the stream all the same.
    data = made.data.model_copy(update={"cache_max_gb": 1.0})
    train(made.model_copy(update={"data": data}), small, resume=True)
    assert metrics(small)["activations"] == "stream"
    made = stopped(large, 1.0)
    shutil.rmtree(tmp_path / "cache" / "activations")
    data = made.data.model_copy(update={"cache_max_gb": 1e-6})
    with pytest.raises(UserError, match="cache_max_gb"):
        train(made.model_copy(update={"data": data}), large, resume=True)
    train(made, large, resume=True)
    assert_same(small, large)
