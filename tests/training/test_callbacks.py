"""Callbacks around a step: projection, unit norm, dead features, the NaN guard, progress."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from sae_lightning.core import ActivationBatch, UserError
from sae_lightning.losses import LossTerm, Reconstruction, StepContext
from sae_lightning.sae import StandardSAE, TopKSAE
from sae_lightning.training import last_good
from sae_lightning.training.callbacks import (
    Checkpoints,
    DeadFeatures,
    DecoderNorm,
    GradientProjection,
    LiveProgress,
    NaNGuard,
    NonFiniteLoss,
)
from sae_lightning.training.callbacks.nan_guard import drop_bad_lanes
from tests.conftest import planted
from tests.training.plain import PlainRun, prepare

ROWS = planted(600, d=16, n_true=32, p=0.06)[0]


class Probe(L.Callback):
    """Calls a function with the SAE before the optimiser and after the step, where it stands among the callbacks."""

    def __init__(self, before: Callable[[Any], None] | None = None, after: Callable[[Any], None] | None = None) -> None:
        self.before, self.after = before, after

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.before:
            self.before(pl_module.lanes["sae"].sae)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if self.after:
            self.after(pl_module.lanes["sae"].sae)


def topk(**options: Any) -> TopKSAE:
    return TopKSAE(16, 24, k=3, **options)


# Gradient projection and unit norm


def test_order_is_projection_clipping_step_unit_norm_checkpoint(tmp_path: Path) -> None:
    raw: list[tuple[Tensor, Tensor]] = []
    projected: list[Tensor] = []
    others: list[float] = []
    stepped: list[Tensor] = []
    normalised: list[Tensor] = []

    def look_projected(sae: Any) -> None:
        projected.append(sae.W_dec.grad.clone())
        others.append(sum(float(p.grad.square().sum()) for n, p in sae.named_parameters() if n != "W_dec"))

    callbacks = [
        Probe(before=lambda sae: raw.append((sae.W_dec.detach().clone(), sae.W_dec.grad.clone()))),
        GradientProjection(),
        Probe(look_projected, after=lambda sae: stepped.append(sae.W_dec.detach().clone())),
        DecoderNorm(),
        Probe(after=lambda sae: normalised.append(sae.W_dec.detach().clone())),
        Checkpoints(every_n_steps=1, keep=9, best=False, run_dir=str(tmp_path)),
    ]
    clip = 0.01
    run = prepare(topk(), ROWS, tmp_path, steps=5, lr=3e-2, batch_size=64, callbacks=callbacks, clip=clip).fit()
    for (weights, gradient), kept in zip(raw, projected, strict=True):
        w, g = weights.double(), gradient.double()
        unit = w / w.norm(dim=1, keepdim=True)
        along = (g * unit).sum(1, keepdim=True)
        assert along.abs().max() > 1e-2 * g.abs().max()  # there was something to remove
        torch.testing.assert_close(kept.double(), g - along * unit, rtol=0, atol=1e-6)
        assert ((kept.double() * unit).sum(1).abs() <= 1e-5 * g.norm(dim=1).max()).all()
    # Clipping comes after: the norm it saw is that of the projected gradient.
    total = (projected[-1].double().square().sum() + others[-1]).sqrt()
    assert run.lane.grad_norm is not None
    assert float(run.lane.grad_norm) == pytest.approx(float(total), rel=1e-5)
    assert float(run.lane.grad_norm) > 2 * clip
    for before, after in zip(stepped, normalised, strict=True):
        assert (before.norm(dim=1) - 1).abs().max() > 1e-3  # the step moved rows off the sphere
        torch.testing.assert_close(after, torch.nn.functional.normalize(before, dim=1))
        torch.testing.assert_close(after.norm(dim=1), torch.ones(24), rtol=0, atol=1e-6)
    for step, weights in enumerate(normalised, start=1):
        saved = torch.load(tmp_path / f"checkpoints/step-{step:09d}.ckpt", weights_only=True)["state_dict"]
        assert torch.equal(saved["lanes.sae.sae.W_dec"], weights)


@pytest.mark.parametrize("sae", [StandardSAE(16, 24), topk(unit_norm_decoder=False)], ids=["standard", "topk, free"])
def test_a_free_decoder_is_left_alone(sae: Any, tmp_path: Path) -> None:
    grads: list[Tensor] = []
    look = Probe(before=lambda sae: grads.append(sae.W_dec.grad.clone()))
    run = prepare(
        sae,
        ROWS,
        tmp_path,
        steps=3,
        lr=1e-2,
        batch_size=64,
        callbacks=[look, GradientProjection(), look, DecoderNorm()],
    ).fit()
    assert all(torch.equal(a, b) for a, b in zip(grads[::2], grads[1::2], strict=True))
    assert (run.lane.sae.W_dec.norm(dim=1) - 1).abs().max() > 1e-3


# Dead features


@pytest.mark.parametrize(
    ("callback", "batch_size", "steps", "tokens"),
    [
        (DeadFeatures(), 2048, 10**6, 10_000_000),
        (DeadFeatures(), 2048, 146, 29_900),  # a tenth of a short run
        (DeadFeatures(), 2048, 3, 2048),  # never less than a batch
        (DeadFeatures(after_tokens=777), 2048, 10**6, 777),
        (DeadFeatures(n_batches_to_dead=200), 4096, 10, 819_200),
    ],
)
def test_dead_threshold_in_tokens(callback: DeadFeatures, batch_size: int, steps: int, tokens: int) -> None:
    assert callback.threshold(batch_size, steps) == tokens


def test_saying_it_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"after_tokens=5 and n_batches_to_dead=2.*one of them"):
        DeadFeatures(after_tokens=5, n_batches_to_dead=2)


def test_a_run_counts_tokens_and_calls_silent_features_dead(tmp_path: Path) -> None:
    sae = topk()
    silence = Probe(before=lambda sae: sae.b_enc.data.__setitem__(slice(0, 5), -1e6))
    run = prepare(
        sae, ROWS, tmp_path, steps=6, lr=1e-4, batch_size=50, callbacks=[silence, DeadFeatures(n_batches_to_dead=4)]
    ).fit()
    lane = run.lane
    assert lane.dead_after_tokens == 200
    assert int(lane.tokens_seen) == 300
    # The first step's forward pass ran before the bias fell.
    assert all(250 <= since <= 300 for since in lane.tokens_since_fired[:5].tolist())
    assert lane.dead()[:5].all()
    assert not lane.dead()[5:].all()


# NaN guard


class Spoilt(LossTerm):
    """0 until the third step, then not a number."""

    name = "spoilt"

    def compute(self, ctx: StepContext) -> Tensor:
        return ctx.out.y_hat.sum() * (float("nan") if ctx.progress >= 0.2 else 0.0)


def spoilt_run(folder: Path, weights: list[Tensor], *callbacks: L.Callback) -> PlainRun:
    look = Probe(after=lambda sae: weights.append(sae.W_dec.detach().clone()))
    terms = {"reconstruction": Reconstruction(), "spoilt": Spoilt()}
    return prepare(
        topk(), ROWS, folder, steps=10, lr=1e-2, batch_size=64, terms=terms, callbacks=[look, *callbacks], clip=None
    )


def test_the_guard_stops_before_the_weights_are_spoilt_and_says_where(tmp_path: Path) -> None:
    weights: list[Tensor] = []
    keep = Checkpoints(every_n_steps=1, run_dir=str(tmp_path), best=False)
    run = spoilt_run(tmp_path, weights, NaNGuard(), keep)
    with pytest.raises(NonFiniteLoss) as raised:
        run.fit()
    message = str(raised.value)
    for word in ("'sae'", "step 2", "spoilt=nan", "reconstruction=", "optimizer.lr"):
        assert word in message, message
    assert "non-finite:" not in message
    assert len(weights) == 2
    assert torch.equal(run.lane.sae.W_dec, weights[-1])
    assert last_good(tmp_path).name == "step-000000002.ckpt"


def test_without_the_guard_the_weights_are_lost(tmp_path: Path) -> None:
    weights: list[Tensor] = []
    spoilt_run(tmp_path, weights).fit()
    assert torch.isnan(weights[-1]).all()


def test_weights_that_are_broken_already_are_named(tmp_path: Path) -> None:
    run = prepare(topk(), ROWS, tmp_path, steps=1, lr=1e-2)
    run.lane.sae.b_dec.data[3] = torch.inf
    x = torch.from_numpy(ROWS[:20])
    run.lane.step(ActivationBatch(x=x, y=x, token_index=torch.arange(20)), 0.0)
    with pytest.raises(NonFiniteLoss, match=r"step 0 .*non-finite: b_dec\)"):
        drop_bad_lanes(run.module)


def test_weights_that_overflow_in_a_step_are_never_saved(tmp_path: Path) -> None:
    def overflow(sae: Any) -> None:
        if len(steps) == 3:
            sae.b_dec.data[0] = torch.inf  # no loss has seen it yet
        steps.append(1)

    steps: list[int] = []
    keep = Checkpoints(every_n_steps=1, run_dir=str(tmp_path), best=False)
    callbacks = [Probe(after=overflow), NaNGuard(), keep]
    with pytest.raises(NonFiniteLoss, match="non-finite: b_dec"):
        prepare(topk(), ROWS, tmp_path, steps=9, lr=1e-3, batch_size=64, callbacks=callbacks).fit()
    assert last_good(tmp_path).name == "step-000000003.ckpt"


# Progress


def test_a_log_file_gets_lines_with_the_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sae_lightning")
    callbacks = [DeadFeatures(), LiveProgress(line_seconds=0.0)]
    run = prepare(topk(), ROWS, tmp_path, steps=3, lr=1e-3, batch_size=64, callbacks=callbacks).fit()
    lines = [r.getMessage() for r in caplog.records if "tokens/s" in r.getMessage()]
    assert [line.split(" tokens")[0] for line in lines] == ["64 of 192", "128 of 192", "192 of 192"]
    fvu, l0 = run.lane.last_fvu_l0()
    assert f"fvu {fvu:.4f}  l0 {l0:.1f}  dead" in lines[-1]
    assert " 0 s left" in lines[-1]
    caplog.clear()
    prepare(topk(), ROWS, tmp_path, steps=3, lr=1e-3, batch_size=64, callbacks=[DeadFeatures(), LiveProgress()]).fit()
    assert len([r for r in caplog.records if "tokens/s" in r.getMessage()]) <= 2  # the first and the last
    assert np.isfinite(fvu)
