"""What a run leaves in TensorBoard, CSV, metrics.json and records.jsonl, read back with their own readers."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from sae_lightning import command
from sae_lightning.build import Run, build_run
from sae_lightning.config import save_config, validate
from sae_lightning.training import learning_rate_factor
from sae_lightning.training.callbacks import training_flops
from tests.conftest import planted

D, F, K, BATCH, STEPS = 16, 24, 3, 64, 23


class Watch(L.Callback):
    """Notes what every step shows; stands before all loggers. Two features are silenced for good."""

    def __init__(self) -> None:
        self.fvu: list[float] = []
        self.fired: list[torch.Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.lanes["sae"].sae.b_enc.data[:2] = -1e3

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        lane = pl_module.lanes["sae"]
        self.fvu.append(lane.last_fvu_l0()[0])
        self.fired.append(lane.figures.counts.clone())


def windows(*steps: int) -> dict[int, slice]:
    """Return the steps that each log covers, by the step it is written at."""
    return {last: slice(first, last) for first, last in zip((0, *steps), steps, strict=False)}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return a finished run on a file of activations, with its events read back."""
    folder = tmp_path_factory.mktemp("logs")
    np.save(folder / "rows.npy", planted(2000, d=D, n_true=32, p=0.06)[0])
    overrides = [
        "lm=none", "data=activations", f"data.path={folder / 'rows.npy'}", f"data.batch_size={BATCH}",
        "model=topk", f"sae.d_sae={F}", f"sae.k={K}", f"tokens={BATCH * STEPS}", "optimizer.lr=0.01",
        "optimizer.clip=0.05", "seed=5",
        "progress=false", "evaluation.every_n_steps=10", "normalise.sample_tokens=512",
        "callbacks.metrics_log.every_n_steps=5", "callbacks.weight_norms.every_n_steps=10",
        "callbacks.density.every_n_steps=8", "callbacks.dead_features.after_tokens=256",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    config = validate(command.plain(command.compose("train", overrides)))
    run_dir = folder / "run"
    text = save_config(config, run_dir)
    run = build_run(config, run_dir)
    run.trainer.callbacks.insert(0, watch := Watch())  # type: ignore[attr-defined]
    run.trainer.fit(run.module, datamodule=run.datamodule)
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return SimpleNamespace(
        run=run, lane=run.module.each_lane()[0][1], events=events, dir=run_dir, text=text, watch=watch
    )


def scalar(done: SimpleNamespace, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in done.events.Scalars(tag)}


def test_every_scalar_is_there_at_its_steps(done) -> None:
    tags = set(done.events.Tags()["scalars"])
    every_5 = {
        "loss/reconstruction", "loss/aux_k", "loss/total", "metrics/fvu", "metrics/mse",
        "sparsity/l0", "sparsity/l1", "sparsity/active_per_batch", "sparsity/dead", "sparsity/active_last_10M",
        "sparsity/l0_rolling", "throughput/tokens_per_s", "throughput/lr", "throughput/tokens", "weights/grad_norm",
    }  # fmt: skip
    every_10 = {f"weights/{p}_grad" for p in ("W_enc", "b_enc", "W_dec", "b_dec")}
    every_10 |= {f"weights/{n}" for n in ("W_enc_norm", "W_dec_norm", "b_enc_mean", "b_dec_norm", "enc_dec_cosine")}
    assert every_5 | every_10 | {"sparsity/dense_share"} <= tags
    for tag in every_5:
        assert list(scalar(done, tag)) == [5, 10, 15, 20, 23], tag
    for tag in every_10:
        assert list(scalar(done, tag)) == [10, 20, 23], tag
    assert list(scalar(done, "sparsity/dense_share")) == [8, 16, 23]
    assert list(scalar(done, "heldout/fvu")) == [10, 20, 23]
    assert all(
        tag.split("/")[0] in {"loss", "metrics", "sparsity", "weights", "throughput", "heldout", "final"}
        for tag in tags
    )
    assert all(np.isfinite(value) for tag in tags for value in scalar(done, tag).values())


def test_values_agree_with_each_other_and_with_the_lane(done) -> None:
    total, rec, aux = (scalar(done, f"loss/{name}") for name in ("total", "reconstruction", "aux_k"))
    for step, value in total.items():
        assert value == pytest.approx(rec[step] + aux[step] / 32, rel=1e-5)
    assert scalar(done, "metrics/fvu") == pytest.approx(rec, rel=1e-4)  # topk: SSE / Var
    l0 = scalar(done, "sparsity/l0")
    assert all(K - 0.5 < value <= K for value in l0.values())  # a selected pre-activation may be cut by ReLU
    lengths = [5, 5, 5, 5, 3]  # steps that each mean is over
    mean = sum(n * value for n, value in zip(lengths, l0.values(), strict=True)) / STEPS
    assert scalar(done, "sparsity/l0_rolling")[STEPS] == pytest.approx(mean, rel=1e-5)
    assert scalar(done, "throughput/tokens") == {step: BATCH * step for step in total}
    assert all(speed > 0 for speed in scalar(done, "throughput/tokens_per_s").values())
    lane = done.lane
    last = {tag: list(scalar(done, tag).values())[-1] for tag in done.events.Tags()["scalars"]}
    assert last["sparsity/dead"] == pytest.approx(float((lane.tokens_since_fired >= 256).float().mean()))
    fired_ever = float((lane.tokens_since_fired < BATCH * STEPS).float().mean())
    assert last["sparsity/active_last_10M"] == pytest.approx(fired_ever)
    assert last["weights/W_dec_norm"] == pytest.approx(1.0, abs=1e-6)
    w_enc, w_dec = lane.sae.W_enc.detach(), lane.sae.W_dec.detach()
    assert last["weights/W_enc_norm"] == pytest.approx(float(w_enc.norm(dim=0).mean()), rel=1e-5)
    assert last["weights/b_dec_norm"] == pytest.approx(float(lane.sae.b_dec.detach().norm()), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(w_enc.T, w_dec, dim=1).mean()
    assert last["weights/enc_dec_cosine"] == pytest.approx(float(cosine), rel=1e-5)
    gradients = {n: float(p.grad.norm()) for n, p in lane.sae.named_parameters() if p.grad is not None}
    assert {n: last[f"weights/{n}_grad"] for n in gradients} == pytest.approx(gradients, rel=1e-5)
    clipped = sum(g**2 for g in gradients.values()) ** 0.5
    assert clipped == pytest.approx(min(0.05, last["weights/grad_norm"]), rel=1e-3)


def test_what_is_shown_is_the_mean_over_the_steps_since_the_last_time(done) -> None:
    expected = {step: np.mean(done.watch.fvu[steps]) for step, steps in windows(5, 10, 15, 20, 23).items()}
    assert scalar(done, "metrics/fvu") == pytest.approx(expected, rel=1e-5)
    assert np.std(done.watch.fvu) > 1e-3


def test_the_learning_rate_follows_its_course(done) -> None:
    # After step n the scheduler has moved on: what is shown is the rate of the step that comes next.
    expected = {step: 0.01 * learning_rate_factor(step, STEPS, 0.05, 0.2, 0.0) for step in (5, 10, 15, 20, 23)}
    assert scalar(done, "throughput/lr") == pytest.approx(expected, rel=1e-5)


def test_the_density_histogram_is_of_the_tokens_since_the_last_one(done) -> None:
    histograms = {h.step: h.histogram_value for h in done.events.Histograms("sparsity/log10_density")}
    assert list(histograms) == [8, 16, 23]
    for step, steps in windows(8, 16, 23).items():
        fired = torch.stack(done.watch.fired[steps])
        density = fired.sum(0).double() / (BATCH * len(fired))
        assert density[:2].tolist() == [0, 0]
        logs = density.clamp_min(1e-10).log10()
        value = histograms[step]
        assert value.num == F
        assert value.min == -10  # never fired
        assert value.max == pytest.approx(float(logs.max()), rel=1e-5)
        assert value.sum == pytest.approx(float(logs.sum()), rel=1e-5)
        assert scalar(done, "sparsity/dense_share")[step] == pytest.approx(float((density > 0.1).double().mean()))


def test_the_config_is_there_as_text(done) -> None:
    assert "config/text_summary" in done.events.Tags()["tensors"]
    (event,) = done.events.Tensors("config/text_summary")
    shown = event.tensor_proto.string_val[0].decode()
    assert shown == "\n".join("    " + line for line in done.text.splitlines())
    assert "d_sae: 24" in shown


def test_hparams_hold_settings_and_final_metrics(done) -> None:
    metadata = done.events.summary_metadata["_hparams_/session_start_info"]
    settings = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert settings["sae.d_sae"].number_value == F
    assert settings["sae.k"].number_value == K
    assert settings["seed"].number_value == 5
    assert settings["optimizer.lr"].number_value == 0.01
    assert settings["normalise.mode"].string_value == "sqrt_d"
    metadata = done.events.summary_metadata["_hparams_/experiment"]
    named = {m.name.tag for m in HParamsPluginData.FromString(metadata.plugin_data.content).experiment.metric_infos}
    heldout = json.loads((done.dir / "metrics.json").read_text())["heldout"]
    measured = {f"final/{name}": value for name, value in heldout.items() if value is not None}
    assert named == set(measured)
    assert "final/fvu" in named
    for tag, value in measured.items():
        assert scalar(done, tag) == {STEPS: pytest.approx(value, rel=1e-6)}


def test_csv_says_the_same(done) -> None:
    with open(done.dir / "csv/sitting-1/metrics.csv") as file:
        table = list(csv.DictReader(file))
    for tag in ("loss/total", "sparsity/dead", "weights/W_enc_norm", "heldout/fvu"):
        rows = {int(row["step"]): float(row[tag]) for row in table if row.get(tag)}
        assert rows == pytest.approx(scalar(done, tag), rel=1e-6), tag


def test_metrics_and_the_scaling_record(done) -> None:
    metrics = json.loads((done.dir / "metrics.json").read_text())
    assert metrics["tokens"] == BATCH * STEPS
    assert metrics["seed"] == 5
    assert metrics["tokens_per_s"] == pytest.approx(metrics["tokens"] / metrics["seconds"], rel=0.05)
    (line,) = (done.dir / "records.jsonl").read_text().splitlines()
    record = json.loads(line)
    expected = {
        "lane": "sae", "architecture": "topk", "d_in": D, "d_out": D, "d_sae": F, "k": K, "seed": 5, "lm": None,
        "parameters": 2 * D * F + F + D, "tokens": BATCH * STEPS, "training_flops": 10 * D * F * BATCH * STEPS,
        "dead_after_tokens": 256, "batch_size": BATCH, "lr": 0.01, "run_dir": "run",
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert {name: record[name] for name in metrics["heldout"]} == metrics["heldout"]
    assert metrics["heldout"]["fvu"] == pytest.approx(scalar(done, "heldout/fvu")[STEPS], rel=0.02)


def test_flops_by_counting_products() -> None:
    # x W_enc and f W_dec forward; dW_enc = x^T dz, dW_dec = f^T dy, df = dy W_dec^T backward: 2 flops a term.
    d_in, d_out, d_sae, tokens = 3, 5, 7, 11
    encoder, decoder = 2 * d_in * d_sae * tokens, 2 * d_out * d_sae * tokens
    assert training_flops(d_in, d_out, d_sae, tokens) == 2 * encoder + 3 * decoder
    assert training_flops(8, 8, 16, 100) == 10 * 8 * 16 * 100


def test_no_logger_no_folder_but_the_record(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", planted(500, d=D, n_true=32, p=0.06)[0])
    overrides = [
        "lm=none", "data=activations", f"data.path={tmp_path / 'rows.npy'}", "data.batch_size=64", "model=standard",
        "sae.d_sae=24", "tokens=192", "logger=none", "progress=false", "trainer.accelerator=cpu",
    ]  # fmt: skip
    config = validate(command.plain(command.compose("train", overrides)))
    run: Run = build_run(config, tmp_path / "run")
    run.trainer.fit(run.module, datamodule=run.datamodule)
    entries: set[Any] = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"metrics.json", "records.jsonl", "export", "checkpoints"} <= entries
    assert not {"tensorboard", "csv"} & entries
