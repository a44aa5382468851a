"""Sparse and dense forms of the same step: same numbers, same gradients; how products are cut and rounded."""

import pytest
import torch

from sae_lightning.core import ActivationBatch
from sae_lightning.losses import L0, L1, Objective, PreAct, Reconstruction, StepContext, Tanh
from sae_lightning.sae import JumpReLUSAE, StandardSAE, initialise, thresholded

TERMS = {
    "standard": lambda: {"reconstruction": Reconstruction(), "l1": L1(2.0)},
    "jumprelu": lambda: {"reconstruction": Reconstruction(), "l0": L0(0.7), "tanh": Tanh(0.3)},
    "jumprelu_target": lambda: {"r": Reconstruction(), "l0": L0(0.7, "target_l0", 3.0), "pre_act": PreAct(0.1)},
}


def an_sae(kind, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 12, generator=generator, dtype=dtype)
    make = StandardSAE if kind == "standard" else JumpReLUSAE
    if make is JumpReLUSAE:
        options |= {"theta_init": 0.2, "bandwidth": 0.3}
    sae = make(12, 50, **options)
    initialise(sae, x.float(), seed=1, decoder_norm=0.8)
    sae = sae.to(dtype)
    with torch.no_grad():
        sae.b_enc.add_(torch.randn(50, generator=generator, dtype=dtype) * 0.1)
        sae.W_dec.mul_(torch.rand(50, 1, generator=generator, dtype=dtype) + 0.5)
    return sae.train(), x


def step(kind, share, monkeypatch, block_bytes=1 << 20, **options):
    monkeypatch.setattr(thresholded, "SPARSE_SHARE", share)
    sae, x = an_sae(kind, **options)
    sae.execution.block_bytes = block_bytes
    out = sae(x)
    batch = ActivationBatch(x=x, y=x, token_index=torch.arange(len(x)))
    context = StepContext(batch=batch, out=out, sae=sae, dead=torch.zeros(50, dtype=torch.bool))
    loss, terms = Objective(TERMS[kind]())(context)
    loss.backward()
    return out, terms, {name: parameter.grad for name, parameter in sae.named_parameters()}


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("block_bytes", [1 << 20, 2000, 400])
@pytest.mark.parametrize("kind", list(TERMS))
def test_sparse_and_dense_steps_agree(kind, block_bytes, rescale, monkeypatch):
    options = {"rescale_acts_by_decoder_norm": rescale}
    sparse_out, sparse_terms, sparse = step(kind, 1.0, monkeypatch, block_bytes, **options)
    dense_out, dense_terms, dense = step(kind, -1.0, monkeypatch, **options)
    assert sparse_out.features.is_sparse
    assert not dense_out.features.is_sparse
    torch.testing.assert_close(sparse_out.features.dense(), dense_out.features.values)
    torch.testing.assert_close(sparse_out.y_hat, dense_out.y_hat)
    for name, value in dense_terms.items():
        torch.testing.assert_close(sparse_terms[name], value, msg=name)
    for name, gradient in dense.items():
        assert float(gradient.abs().max()) > 0, name
        torch.testing.assert_close(sparse[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", ["standard", "jumprelu"])
def test_what_a_narrow_product_selects_is_scored_exactly(kind, monkeypatch):
    monkeypatch.setattr(thresholded, "SPARSE_SHARE", 1.0)
    sae, x = an_sae(kind, torch.float32)
    exact = sae(x)
    sae.execution.product = torch.bfloat16
    narrow = sae(x)
    assert narrow.pre_acts.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.features.dense(), exact.features.dense(), rtol=1e-5, atol=1e-6)


def test_few_active_pairs_make_it_sparse_and_evaluation_is_dense():
    sae, x = an_sae("standard", torch.float32)
    assert not sae(x).features.is_sparse
    with torch.no_grad():
        sae.b_enc.sub_(10.0)
    assert sae(x).features.is_sparse
    assert not sae.eval()(x).features.is_sparse


def test_a_loss_that_reads_everything_keeps_it_dense(monkeypatch):
    monkeypatch.setattr(thresholded, "SPARSE_SHARE", 1.0)
    sae, x = an_sae("jumprelu")
    sae.execution.whole_pre_acts = True
    assert not sae(x).features.is_sparse


def test_a_leaky_relu_is_never_sparse():
    sae, x = an_sae("standard", negative_slope=0.1)
    with torch.no_grad():
        sae.b_enc.sub_(10.0)
    assert not sae(x).features.is_sparse
