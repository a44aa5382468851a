"""AuxK: who is trained, who is not, and what happens when there is nothing to do."""

import pytest
import torch
from torch import Tensor

from sae_lightning.core import ActivationBatch, torch_generator
from sae_lightning.losses import AuxK, StepContext
from sae_lightning.losses.aux_k import default_k_aux, top_dead_padded
from sae_lightning.sae import SparseAutoencoder
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.sae.topk import TopKSAE

N, D, F = 32, 12, 40
MAKE = {
    "topk": lambda: TopKSAE(D, F, k=4),
    "batch_topk": lambda: BatchTopKSAE(D, F, k=4),
    "dense": lambda: StandardSAE(D, F),
}


def random_sae(kind: str) -> SparseAutoencoder:
    sae = MAKE[kind]()
    g = torch_generator(0, "tests", "aux")
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.5
    return sae.train()


def value(ctx: StepContext, k_aux: int, padded: bool) -> Tensor:
    term = AuxK(k_aux=k_aux)
    if not padded:
        return term.compute(ctx)
    return term.relative_error(ctx, *top_dead_padded(ctx.out.pre_acts.detach(), ctx.dead, k_aux))


def step(sae: SparseAutoencoder, x: Tensor, dead: Tensor) -> StepContext:
    batch = ActivationBatch(x=x, y=x, token_index=torch.arange(len(x)))
    return StepContext(batch=batch, out=sae(x), sae=sae, dead=dead)


def rows() -> Tensor:
    return torch.randn(N, D, generator=torch_generator(1, "tests", "aux"))


def some_dead() -> Tensor:
    return torch.arange(F) % 3 == 0


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("padded", [False, True])
def test_trains_dead_features_and_leaves_live_ones_alone(kind: str, padded: bool) -> None:
    sae, dead = random_sae(kind), some_dead()
    value(step(sae, rows(), dead), 32, padded).backward()
    assert sae.W_enc.grad is not None
    assert sae.b_enc.grad is not None
    assert sae.W_dec.grad is not None
    for per_feature in (sae.W_enc.grad.T, sae.b_enc.grad[:, None], sae.W_dec.grad):
        assert (per_feature[~dead] == 0).all()
    # Every dead feature that is positive on some row learns to read and to write (all places are filled).
    learns = dead & (sae.pre_acts(rows()) > 0).any(0)
    assert learns.sum() > 5
    assert (sae.W_enc.grad.T[learns].abs().sum(1) > 0).all()
    assert (sae.W_dec.grad[learns].abs().sum(1) > 0).all()


def test_padded_choice_has_the_same_value_and_gradients() -> None:
    """What runs on an accelerator, where nobody asks how many features are dead."""
    sae, x = random_sae("topk"), rows()
    for dead in (some_dead(), torch.arange(F) == 7, torch.zeros(F, dtype=torch.bool)):
        results = []
        for padded in (False, True):
            sae.zero_grad()
            ctx = step(sae, x, dead)
            v = value(ctx, 16, padded)
            (v + 0 * ctx.out.y_hat.sum()).backward()
            zero = torch.zeros_like
            results.append([v.detach()] + [zero(p) if p.grad is None else p.grad for p in sae.parameters()])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_no_dead_feature_is_0(padded: bool) -> None:
    sae = random_sae("topk")
    ctx = step(sae, rows(), torch.zeros(F, dtype=torch.bool))
    v = value(ctx, 6, padded)
    (v + ctx.out.y_hat.sum()).backward()
    assert v == 0.0
    assert all(p.grad is None or p.grad.isfinite().all() for p in sae.parameters())


@pytest.mark.parametrize("kind", MAKE)
def test_residual_without_variance_is_0_and_poisons_nothing(kind: str) -> None:
    sae = random_sae(kind)
    for x in (rows()[:1], rows()[:1].expand(N, -1).contiguous()):
        sae.zero_grad()
        sae.eval()  # the same features for equal rows, also in batch top-k
        ctx = step(sae, x, torch.ones(F, dtype=torch.bool))
        value = AuxK().compute(ctx)
        (value + ctx.out.y_hat.sum()).backward()
        assert value == 0.0
        assert sae.W_dec.grad is not None
        assert all(p.grad is None or p.grad.isfinite().all() for p in sae.parameters())
    with torch.no_grad():
        perfect = StandardSAE(D, 2 * D)
        perfect.W_enc.copy_(torch.cat([torch.eye(D), -torch.eye(D)], 1))
        perfect.W_dec.copy_(torch.cat([torch.eye(D), -torch.eye(D)], 0))
    ctx = step(perfect, rows(), torch.ones(2 * D, dtype=torch.bool))
    assert (ctx.out.y_hat == ctx.batch.y).all()
    value = AuxK().compute(ctx)
    value.backward()
    assert value == 0.0
    assert all(p.grad is None or p.grad.isfinite().all() for p in perfect.parameters())


def test_target_is_detached_and_has_no_bias() -> None:
    """b_dec moves the residual but is not what AuxK decodes with; it learns only as what the encoder subtracts."""
    sae = TopKSAE(D, F, k=4, subtract_b_dec=False)
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=torch_generator(3)) * 0.5
    AuxK(k_aux=8).compute(step(sae, rows(), some_dead())).backward()
    assert sae.b_dec.grad is None or (sae.b_dec.grad == 0).all()


@pytest.mark.parametrize(("d", "k"), [(576, 256), (768, 512), (64, 32), (2048, 1024), (1, 1)])
def test_default_is_a_power_of_two_near_half_the_width(d: int, k: int) -> None:
    assert default_k_aux(d) == k
