import torch

from sae_lightning.sae import JumpReLUSAE
from tests.sae.naive_sae import build


def case(bandwidth=0.5):
    sae = build("jumprelu", bandwidth=bandwidth)
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    return sae, x, sae.pre_acts(x).detach(), sae.theta.detach()


def test_activation_gradients_are_the_rectangle_kernels():
    sae, x, z, theta = case()
    weight = torch.randn(200, 40, generator=torch.Generator().manual_seed(1))
    features = sae.encode(x)
    assert torch.equal(features.values != 0, z > theta)
    (features.values * weight).sum().backward()
    kernel = ((z - theta).abs() / 0.5 < 0.5).float()
    assert 0 < kernel.mean() < 1
    d_theta = (weight * -(theta / 0.5) * kernel).sum(0)
    torch.testing.assert_close(sae.log_theta.grad, d_theta * theta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.b_enc.grad, (weight * (z > theta)).sum(0), rtol=1e-4, atol=1e-5)


def test_step_counts_and_moves_theta_alone():
    sae, x, _, _ = case()
    z = sae.pre_acts(x)
    step = sae.step(z)
    assert torch.equal(step.sum(1).long(), sae.encode(x).l0())
    weight = torch.randn(200, 40, generator=torch.Generator().manual_seed(1))
    (step * weight).sum().backward()
    theta = sae.theta.detach()
    kernel = ((z.detach() - theta).abs() / 0.5 < 0.5).float()
    torch.testing.assert_close(sae.log_theta.grad, -(weight * kernel).sum(0) / 0.5 * theta, rtol=1e-4, atol=1e-4)
    assert sae.b_enc.grad is None or not sae.b_enc.grad.any()


def test_theta_stays_float32():
    sae = JumpReLUSAE(4, 8).to(torch.bfloat16)
    assert sae.log_theta.dtype == torch.float32
    assert sae.W_enc.dtype == torch.bfloat16
    torch.testing.assert_close(sae.theta, torch.full((8,), 0.001))
    assert sae(torch.ones(2, 4)).features.values.dtype == torch.float32
    sae = build("jumprelu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sae(torch.ones(2, 12))
    assert out.features.values.dtype == out.pre_acts.dtype == torch.float32


def test_defaults_are_gemma_scopes():
    sae = JumpReLUSAE(4, 8)
    assert sae.bandwidth == 0.001
    assert torch.allclose(sae.theta, torch.tensor(0.001))
