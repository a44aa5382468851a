"""Callbacks around a step: projection, unit norm, dead features, the NaN guard, progress."""

import copy
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
from sae_lightning.training import last_good, learning_rate_factor
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


def naive_step(weights: dict[str, Tensor], grads: dict[str, Tensor], moments: dict, t: int, lr: float, clip: float):
    """Return the weights after a step in float64, and the norm of the gradients that was clipped."""
    unit = torch.nn.functional.normalize(weights["W_dec"], dim=1)
    along = (grads["W_dec"] * unit).sum(1, keepdim=True)
    assert along.abs().max() > 1e-2 * grads["W_dec"].abs().max()  # there is something to remove
    grads = grads | {"W_dec": grads["W_dec"] - along * unit}
    norm = torch.cat([g.flatten() for g in grads.values()]).norm()
    after = {}
    for name, grad in grads.items():
        g = grad * min(1.0, clip / float(norm))
        m, v = moments.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        moments[name] = (m, v)
        after[name] = weights[name] - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    assert (after["W_dec"].norm(dim=1) - 1).abs().max() > 1e-3  # the step moves rows off the sphere
    return after | {"W_dec": torch.nn.functional.normalize(after["W_dec"], dim=1)}, norm


def test_order_is_projection_clipping_step_unit_norm_checkpoint(tmp_path: Path) -> None:
    before: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    after: list[dict[str, Tensor]] = []

    def look(sae: Any) -> None:
        weights = {n: p.detach().double() for n, p in sae.named_parameters()}
        before.append((weights, {n: p.grad.double() for n, p in sae.named_parameters()}))

    callbacks = [
        Probe(look, after=lambda sae: after.append({n: p.detach().clone() for n, p in sae.named_parameters()})),
        GradientProjection(),
        DecoderNorm(),
        Checkpoints(every_n_steps=1, keep=9, best=False, run_dir=str(tmp_path)),
    ]
    clip, steps = 0.01, 5
    run = prepare(topk(), ROWS, tmp_path, steps=steps, lr=3e-2, batch_size=64, callbacks=callbacks, clip=clip).fit()
    moments: dict[str, Any] = {}
    norm = torch.zeros(())
    for t, ((weights, grads), stepped) in enumerate(zip(before, after, strict=True), start=1):
        lr = 3e-2 * learning_rate_factor(t - 1, steps, 0.05, 0.2, 0.0)
        expected, norm = naive_step(weights, grads, moments, t, lr, clip)
        for name, value in expected.items():
            torch.testing.assert_close(stepped[name].double(), value, rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(stepped["W_dec"].norm(dim=1), torch.ones(24), rtol=0, atol=1e-6)
        saved = torch.load(tmp_path / f"checkpoints/step-{t:09d}.ckpt", weights_only=True)["state_dict"]
        assert torch.equal(saved["lanes.sae.sae.W_dec"], stepped["W_dec"])
    # Clipping comes after projection: the norm it saw is that of the projected gradient.
    assert run.module.grad_norm_of("sae") == pytest.approx(float(norm), rel=1e-5)
    assert float(norm) > 2 * clip


@pytest.mark.parametrize("sae", [StandardSAE(16, 24), topk(unit_norm_decoder=False)], ids=["standard", "topk, free"])
def test_a_free_decoder_is_left_alone(sae: Any, tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [GradientProjection(), DecoderNorm()]):
        run = prepare(copy.deepcopy(sae), ROWS, tmp_path, steps=3, lr=1e-2, batch_size=64, callbacks=callbacks).fit()
        weights.append(run.lane.sae.W_dec)
    assert torch.equal(*weights)
    assert (weights[0].norm(dim=1) - 1).abs().max() > 1e-3


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
