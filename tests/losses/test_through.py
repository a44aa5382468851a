"""KL and block errors against hand-written ones, their gradients against finite differences."""

import math

import pytest
import torch
from torch import Tensor

from sae_lightning.core import ActivationBatch
from sae_lightning.losses import BlockMSE, LogitKL, ModelRun, Objective, Reconstruction, StepContext, Through
from sae_lightning.losses.logit_kl import Direction
from sae_lightning.sae import StandardSAE

B, P, V, D = 3, 5, 11, 4
KEEP = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(B, P, V, generator=torch.Generator().manual_seed(seed)).double()


def context(clean: ModelRun, spliced: ModelRun) -> StepContext:
    x = torch.randn(int(KEEP.sum()), D, generator=torch.Generator().manual_seed(5)).double()
    sae = StandardSAE(D, 8).double()
    dead = torch.zeros(8, dtype=torch.bool)
    return StepContext(
        ActivationBatch(x, x, torch.arange(len(x))), sae(x), sae, dead, through=Through(clean, spliced, KEEP)
    )


def kl(term: LogitKL, clean: Tensor, spliced: Tensor) -> Tensor:
    return term.compute(context(ModelRun(clean, {}), ModelRun(spliced, {})))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_is_the_mean_over_kept_positions(direction: Direction, temperature: float) -> None:
    clean, spliced = logits(0), logits(1)
    p, q = (torch.softmax(value / temperature, -1) for value in (clean, spliced))
    if direction == "reverse":
        p, q = q, p
    expected = sum(
        p[b, t, v].item() * math.log(p[b, t, v].item() / q[b, t, v].item())
        for b, t in KEEP.nonzero().tolist()
        for v in range(V)
    ) / int(KEEP.sum())
    assert float(kl(LogitKL(1.0, direction, temperature), clean, spliced)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_gradient_passes_finite_differences(direction: Direction) -> None:
    spliced = logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kl(LogitKL(1.0, direction, 1.7), logits(0), s), (spliced,))
    kl(LogitKL(1.0, direction), logits(0), spliced).backward()
    assert spliced.grad is not None
    assert (spliced.grad[~KEEP] == 0).all()
    assert (spliced.grad[KEEP].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_identity_costs_nothing_and_impossible_tokens_are_no_nan(direction: Direction) -> None:
    clean = logits(0)
    assert float(kl(LogitKL(1.0, direction), clean, clean.clone())) == 0.0
    barred = clean.clone()
    barred[..., 3] = -math.inf  # a token that the model rules out
    spliced = (barred + 0.1 * logits(1)).requires_grad_()
    value = kl(LogitKL(1.0, direction), barred, spliced)
    value.backward()
    assert torch.isfinite(value)
    assert spliced.grad is not None
    assert torch.isfinite(spliced.grad).all()


def test_kl_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lightning.losses import logit_kl

    whole = logits(1).requires_grad_()
    kl(LogitKL(), logits(0), whole).backward()
    monkeypatch.setattr(logit_kl, "_CHUNK", 2 * V)
    parts = logits(1).requires_grad_()
    kl(LogitKL(), logits(0), parts).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def blocks(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"blocks.{n}.hook_resid_post": (n + 1) * torch.randn(B, P, D, generator=generator).double() for n in (2, 4)}


def test_block_mse_is_a_mean_over_layers_of_shares_of_variance() -> None:
    clean, spliced = blocks(0), blocks(1)
    ctx = context(ModelRun(logits(0), clean), ModelRun(logits(1), spliced))
    shares, errors = [], []
    for site in clean:
        b, b_hat = clean[site][KEEP], spliced[site][KEEP]
        error = sum(float(((u - v) ** 2).sum()) for u, v in zip(b, b_hat, strict=True)) / len(b)
        mean = sum(b) / len(b)
        errors.append(error)
        shares.append(error / (sum(float(((u - mean) ** 2).sum()) for u in b) / len(b)))
    assert float(BlockMSE().compute(ctx)) == pytest.approx(sum(shares) / 2, rel=1e-12)
    assert float(BlockMSE(normalise="none").compute(ctx)) == pytest.approx(sum(errors) / 2, rel=1e-12)
    same = context(ModelRun(logits(0), clean), ModelRun(logits(0), clean))
    assert float(BlockMSE().compute(same)) == 0.0


def test_block_mse_gradient_passes_finite_differences() -> None:
    def value(spliced: Tensor) -> Tensor:
        later = {"blocks.2.hook_resid_post": spliced}
        clean = {"blocks.2.hook_resid_post": blocks(0)["blocks.2.hook_resid_post"]}
        return BlockMSE().compute(context(ModelRun(logits(0), clean), ModelRun(logits(1), later)))

    assert torch.autograd.gradcheck(value, (blocks(1)["blocks.2.hook_resid_post"].requires_grad_(),))


def test_a_nat_weighs_alike_beside_any_reconstruction() -> None:
    ctx = context(ModelRun(logits(0), {}), ModelRun(logits(1).requires_grad_(), {}))
    totals = {}
    for normalise in ("variance", "none"):
        terms = {"r": Reconstruction(normalise=normalise), "kl": LogitKL(0.1)}
        total, values = Objective(terms)(ctx)
        totals[normalise] = float(total.detach()), float(values["r"]), float(values["kl"])
    variance = float(ctx.target_variance())
    for normalise, unit in (("variance", 1.0), ("none", variance)):
        total, own, nats = totals[normalise]
        assert total == pytest.approx(own + 0.1 * unit * nats, rel=1e-9)
    assert totals["none"][0] == pytest.approx(variance * totals["variance"][0], rel=1e-9)
