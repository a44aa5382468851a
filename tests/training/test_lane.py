"""A lane's counters against a naive reading of a few hand-made steps."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sae_lightning.activations import Normaliser
from sae_lightning.core import ActivationBatch, Schedule
from sae_lightning.losses import L1, LossTerm, Objective, Reconstruction, StepContext
from sae_lightning.sae import StandardSAE, TopKSAE, initialise
from sae_lightning.training import Lane

D = 5

# Rows that are features at once: the identity SAE below gives f = ReLU(x). Feature 4 never fires, 1 only at first.
STEPS = [
    [[1.0, 2.0, 0.0, 0.0, -1.0], [0.5, 0.0, 0.0, 0.0, -2.0]],
    [[1.0, 0.0, 3.0, 0.0, -1.0], [0.0, 0.0, 1.0, 0.0, -3.0]],
    [[2.0, -1.0, 0.0, 0.0, -1.0], [1.0, -1.0, 0.0, 0.0, 0.0]],
    [[0.0, -1.0, 0.0, 4.0, -1.0], [0.0, -1.0, 0.0, 1.0, 0.0]],
    [[1.0, -1.0, 1.0, 1.0, -1.0], [0.0, -1.0, 0.0, 0.0, 0.0]],
]


def identity_lane(*, l0_window: int = 3, **terms: LossTerm) -> Lane:
    sae = StandardSAE(D, D)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D))
        sae.W_dec.copy_(torch.eye(D) * 0.5)
    return Lane(
        sae, Objective(terms or {"reconstruction": Reconstruction()}), Normaliser("none", False, D), l0_window=l0_window
    )


def batch(rows: Sequence[Sequence[float]] | Tensor) -> ActivationBatch:
    x = torch.as_tensor(rows)
    return ActivationBatch(x=x, y=x, token_index=torch.arange(len(x)))


def walk(lane: Lane) -> None:
    for i, rows in enumerate(STEPS):
        lane.step(batch(rows), i / len(STEPS))
        lane.count(len(rows))


def test_tokens_since_a_feature_fired_step_by_step() -> None:
    lane = identity_lane()
    since = [0] * D
    for i, rows in enumerate(STEPS):
        lane.step(batch(rows), i / len(STEPS))
        assert lane.tokens_since_fired.tolist() == since  # counted after the optimiser, not before
        lane.count(len(rows))
        for feature in range(D):
            fired = any(row[feature] > 0 for row in rows)
            since[feature] = 0 if fired else since[feature] + len(rows)
        assert lane.tokens_since_fired.tolist() == since
        assert int(lane.tokens_seen) == 2 * (i + 1)
    assert since == [0, 8, 0, 0, 10]


def test_dead_is_a_threshold_in_tokens() -> None:
    lane = identity_lane()
    walk(lane)
    assert not lane.dead().any()  # ten million by default
    lane.dead_after_tokens = 8
    assert lane.dead().tolist() == [False, True, False, False, True]
    assert lane.dead(9).tolist() == [False, False, False, False, True]
    assert not lane.dead(11).any()


def test_rolling_l0_is_the_mean_of_the_last_steps() -> None:
    l0 = [sum(v > 0 for row in rows for v in row) / len(rows) for rows in STEPS]
    lane = identity_lane(l0_window=3)
    assert lane.rolling_l0() == 0.0
    for i, rows in enumerate(STEPS):
        lane.step(batch(rows), 0.0)
        last = l0[max(0, i - 2) : i + 1]
        assert lane.rolling_l0() == pytest.approx(sum(last) / len(last))


def test_density_is_the_share_of_tokens_since_it_was_last_taken() -> None:
    lane = identity_lane()
    assert lane.take_density() is None
    for part in (STEPS[:3], STEPS[3:]):
        for rows in part:
            lane.step(batch(rows), 0.0)
            lane.count(len(rows))
        tokens = [row for rows in part for row in rows]
        density = lane.take_density()
        assert density is not None
        assert density.dtype == torch.float64
        assert density.tolist() == pytest.approx([sum(t[i] > 0 for t in tokens) / len(tokens) for i in range(D)])
    assert lane.take_density() is None


class Squares(Reconstruction):
    """A reconstruction that the lane does not know."""

    def compute(self, ctx: StepContext) -> Tensor:
        return super().compute(ctx) * 1.0


@pytest.mark.parametrize(
    "term",
    [
        Reconstruction(),
        Reconstruction(reduction="element_mean"),
        Reconstruction(normalise="variance"),
        Reconstruction(reduction="element_mean", normalise="variance"),
        Squares(normalise="variance"),
    ],
)
def test_averages_are_the_means_of_naive_figures_and_start_anew(term: Reconstruction) -> None:
    l1 = L1(2.0, decoder_norm="plain")
    lane = identity_lane(reconstruction=term, l1=l1)
    expected: dict[str, list[float]] = {}
    for rows in STEPS[:3]:
        loss = lane.step(batch(rows), 0.5)
        x = torch.tensor(rows, dtype=torch.float64)
        f = x.clamp(min=0)
        sse = (x - 0.5 * f).square().sum(1).mean()
        variance = (x - x.mean(0)).square().sum(1).mean()
        value = sse / (D if term.reduction == "element_mean" else 1) / (variance if term.normalise == "variance" else 1)
        figures = {
            "loss/reconstruction": value,
            "loss/l1": f.sum(1).mean(),
            "loss/total": value + 2 * f.sum(1).mean(),
            "metrics/fvu": sse / variance,
            "metrics/mse": sse / D,
            "sparsity/l0": (f > 0).sum() / len(x),
            "sparsity/l1": f.sum(1).mean(),
            "sparsity/active_per_batch": (f > 0).any(0).double().mean(),
        }
        assert float(loss.detach()) == pytest.approx(float(figures["loss/total"]), rel=1e-6)
        for name, value in figures.items():
            expected.setdefault(name, []).append(float(value))
    fvu, l0 = lane.last_fvu_l0()
    assert (fvu, l0) == pytest.approx((expected["metrics/fvu"][-1], expected["sparsity/l0"][-1]))
    assert float(lane.last_loss()) == pytest.approx(expected["loss/total"][-1])
    averages = lane.take_averages()
    assert averages == pytest.approx({name: sum(v) / 3 for name, v in expected.items()})
    assert lane.take_averages() == {}
    lane.step(batch(STEPS[3]), 0.5)
    assert lane.take_averages()["sparsity/l0"] == 1.0


@pytest.mark.parametrize(
    ("reconstruction", "l1", "factor"),
    [
        (Reconstruction(), L1(Schedule(3.0, "warmup", 0.5)), "1"),
        (Reconstruction(reduction="element_mean"), L1(3.0, "batch_sum"), "batch * d"),
        (Reconstruction(reduction="element_mean"), L1(3.0), "d"),
        (Reconstruction(reduction="element_mean"), L1(3.0, "element_mean"), "d / d_sae"),
        (Reconstruction(normalise="variance"), L1(3.0), "variance"),
    ],
)
def test_lambda_eff(reconstruction: Reconstruction, l1: L1, factor: str) -> None:
    rows = torch.randn(32, D, generator=torch.Generator().manual_seed(0))
    lane = identity_lane(reconstruction=reconstruction, l1=l1)
    lane.step(batch(rows), 0.5)
    variance = float((rows - rows.mean(0)).square().sum(1).mean())
    expected = 3.0 * {"1": 1, "batch * d": 32 * D, "d": D, "d / d_sae": 1, "variance": variance}[factor]
    assert lane.lambda_eff(32, 0.5) == {"l1": pytest.approx(expected, rel=1e-5)}
    if factor == "1":
        assert lane.lambda_eff(32, 0.25) == {"l1": pytest.approx(1.5)}


def test_the_first_bad_step_is_kept_and_a_good_one_leaves_no_mark() -> None:
    lane = identity_lane()
    lane.step(batch(STEPS[0]), 0.0)
    assert lane.first_bad() == -1
    for value in (math.inf, math.nan):
        rows = torch.tensor(STEPS[1])
        rows[0, 0] = value
        lane.step(batch(rows), 0.0)
    lane.step(batch(STEPS[2]), 0.0)
    assert lane.first_bad() == int(lane.first_bad_step) == 1


def test_the_state_is_the_same_however_often_somebody_looked() -> None:
    rows = torch.randn(40, 6, D, generator=torch.Generator().manual_seed(3))
    rows[25, 0, 0] = math.nan
    states, averages = [], []
    for looks in ((), (0, 1, 2, 5, 17, 18, 30), range(40)):
        lane = identity_lane(l0_window=7)
        for i, some in enumerate(rows):
            lane.step(batch(some), 0.0)
            lane.count(len(some))
            if i in looks:
                lane.settle()
        states.append(lane.state_dict())
        averages.append(lane.take_averages())
    assert int(states[0]["first_bad_step"]) == 25
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())
    finite = [{name: value for name, value in a.items() if math.isfinite(value)} for a in averages]
    assert finite[0] == finite[1] == finite[2]
    assert {"sparsity/l0", "sparsity/active_per_batch"} <= finite[0].keys()


def test_averages_of_more_steps_than_are_kept_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_lightning.training.figures._MOST_KEPT", 4)
    monkeypatch.setattr("sae_lightning.training.lane._MOST_WAITING", 3)
    lane = identity_lane()
    rows = torch.randn(14, 6, D, generator=torch.Generator().manual_seed(4))
    for some in rows:
        lane.step(batch(some), 0.0)
    l0 = (rows > 0).sum(-1).double().mean(1)
    assert lane.take_averages()["sparsity/l0"] == pytest.approx(float(l0.mean()), rel=1e-6)
    assert lane.rolling_l0() == pytest.approx(float(l0[-3:].mean()), rel=1e-6)


def test_every_counter_travels_in_the_state() -> None:
    lane, other = identity_lane(), identity_lane()
    walk(lane)
    other.load_state_dict(lane.state_dict())
    assert other.rolling_l0() == lane.rolling_l0()
    assert torch.equal(other.dead(5), lane.dead(5))
    assert int(other.tokens_seen) == 10
    first, second = lane.take_density(), other.take_density()
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


class Watch(LossTerm):
    """Remembers what it was shown."""

    name = "watch"

    def compute(self, ctx: StepContext) -> Tensor:
        self.seen = ctx
        return ctx.out.y_hat.sum()


def test_a_term_sees_normalised_rows_the_dead_and_the_progress() -> None:
    watch = Watch()
    rows = torch.randn(64, D, generator=torch.Generator().manual_seed(1)) + 3
    normaliser = Normaliser.fit(rows, "sqrt_d", True)
    sae = TopKSAE(D, 10, k=4, k_start=8, k_anneal=1.0)
    initialise(sae, normaliser.apply(rows), seed=0)
    lane = Lane(sae, Objective({"watch": watch}), normaliser)
    lane.dead_after_tokens = 4
    lane.tokens_since_fired += torch.arange(10)
    lane.step(batch(rows), 0.25)
    seen = watch.seen
    torch.testing.assert_close(seen.batch.x, (rows - rows.mean(0)) * normaliser.scale)
    assert seen.batch.y is seen.batch.x
    assert seen.dead.tolist() == [i >= 4 for i in range(10)]
    assert seen.progress == 0.25
    assert sae.k_effective == 7


@pytest.mark.parametrize("mode", ["sqrt_d", "layer_norm"])
def test_a_transcoders_targets_are_normalised_as_its_outputs_will_be_read(mode) -> None:
    # layer_norm: at inference only the input row is known, so targets use its statistics in training too.
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(16, D, generator=g), 4 * torch.randn(16, 3, generator=g) + 1
    normaliser = Normaliser.fit(x, mode, False, y=y)
    watch = Watch()
    lane = Lane(StandardSAE(D, 8, 3), Objective({"watch": watch}), normaliser)
    lane.step(ActivationBatch(x=x, y=y, token_index=torch.arange(16)), 0.0)
    torch.testing.assert_close(normaliser.undo(watch.seen.batch.y, x), y)
