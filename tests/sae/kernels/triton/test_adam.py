import math

import pytest
import torch

from sae_lightning.sae import remove_parallel_gradient, renormalise
from sae_lightning.sae.kernels import triton as kernels
from tests.sae.kernels.triton.conftest import DEVICE

INTERPRETED = True
BETAS, EPS, LR = (0.9, 0.999), 1e-8, 3e-3


class Twin:
    """The same weights twice: for the kernels in float32, and for torch's own optimiser in float64."""

    def __init__(self, d_sae: int, d: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        W_dec = torch.randn(d_sae, d, generator=self.generator)
        renormalise(W_dec)
        W_dec[1] = 0
        W_enc = torch.randn(d_sae, d, generator=self.generator).t()
        bias = torch.randn(d_sae, generator=self.generator)
        self.exact = [p.double().requires_grad_() for p in (W_enc, W_dec, bias)]
        self.params = [p.to(DEVICE) for p in (W_enc, W_dec.clone(), bias)]
        self.mean, self.square = ([torch.zeros_like(p) for p in self.params] for _ in range(2))
        self.steps = [torch.zeros((), device=DEVICE) for _ in self.params]
        self.adam = torch.optim.Adam(self.exact, lr=LR, betas=BETAS, eps=EPS)

    def step(self, clip: float | None, project: bool, renorm: bool, lr: float | torch.Tensor = LR) -> tuple:
        """Do a step of both; return both norms."""
        # Largely along the rows, so that the projection matters, and of sizes that differ by feature.
        grads = [torch.randn(p.shape, generator=self.generator) for p in self.exact]
        grads[1] += 3 * self.exact[1].detach().float()
        grads[1] *= torch.logspace(-6, 1, len(grads[1]))[:, None]
        for p, grad in zip(self.exact, grads, strict=True):
            p.grad = grad.double()
        if project:
            remove_parallel_gradient(self.exact[1])
        norm = torch.nn.utils.clip_grad_norm_(self.exact, math.inf if clip is None else clip)
        self.adam.step()
        if renorm:
            renormalise(self.exact[1])
        for step in self.steps:
            step += 1
        found = kernels.adam_(
            self.params, [g.to(DEVICE) for g in grads], self.mean, self.square, self.steps, lr=lr, betas=BETAS,
            eps=EPS, clip=clip, decoder=1, project=project, renormalise=renorm,
        )  # fmt: skip
        return found.cpu(), norm


@pytest.mark.parametrize(
    ("clip", "project", "renorm"),
    [(1.0, True, True), (None, True, False), (0.5, False, True), (1e9, False, False)],
)
@pytest.mark.parametrize("d", [1, 70, 1100])
def test_equals_torch_one_after_the_other(clip, project, renorm, d):
    twin = Twin(19 if d > 70 else 50, d)
    if d == 1 and project:
        # One column lies along the row entirely: nothing but rounding is left, which Adam would make a step of.
        project = False
    for _ in range(3):
        found, norm = twin.step(clip, project, renorm)
        torch.testing.assert_close(found.double(), norm, rtol=1e-5, atol=0)
    for param, exact in zip(twin.params, twin.exact, strict=True):
        torch.testing.assert_close(param.cpu().double(), exact.detach(), rtol=1e-5, atol=2e-6)
    for moments, name in ((twin.mean, "exp_avg"), (twin.square, "exp_avg_sq")):
        for moment, exact in zip(moments, twin.exact, strict=True):
            wanted = twin.adam.state[exact][name]
            scale = float(wanted.abs().max())
            torch.testing.assert_close(moment.cpu().double(), wanted, rtol=1e-4, atol=1e-6 * scale)
    if renorm:
        lengths = twin.params[1].norm(dim=1).cpu()
        assert lengths[1] > 0  # a row of zeros that Adam has moved
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-6, atol=1e-6)


def test_rows_too_long_to_be_held():
    twin = Twin(4, 8200)
    found, norm = twin.step(1.0, True, True)
    torch.testing.assert_close(found.double(), norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(twin.params[1].cpu().double(), twin.exact[1].detach(), rtol=1e-5, atol=2e-6)


def test_learning_rate_on_the_device():
    first, second = Twin(5, 8), Twin(5, 8)
    first.step(1.0, True, True)
    second.step(1.0, True, True, lr=torch.tensor(LR, device=DEVICE))
    assert all(torch.equal(a, b) for a, b in zip(first.params, second.params, strict=True))


def test_a_row_of_zeros_without_gradient_stays():
    W = torch.zeros(3, 8, device=DEVICE)
    W[0, 0] = 1
    zeros = [torch.zeros_like(W) for _ in range(3)]
    step = torch.ones((), device=DEVICE)
    options = {"clip": 1.0, "decoder": 0, "project": True, "renormalise": True}
    norm = kernels.adam_([W], zeros[:1], zeros[1:2], zeros[2:], [step], lr=LR, betas=BETAS, eps=EPS, **options)
    assert float(norm) == 0
    assert W.sum() == W[0, 0] == 1


def test_nan_is_not_hidden():
    twin = Twin(5, 8)
    twin.exact[0].data[0, 0] = math.nan
    grads = [torch.ones_like(p) for p in twin.params]
    grads[2][3] = math.nan
    norm = kernels.adam_(
        twin.params, grads, twin.mean, twin.square, [s + 1 for s in twin.steps], lr=LR, betas=BETAS, eps=EPS, clip=1.0
    )
    assert norm.isnan()
    assert all(p.isnan().all() for p in twin.params)


def test_bfloat16_gradients():
    W = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    grad = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)).to(DEVICE, torch.bfloat16)
    results = []
    for g in (grad, grad.float()):
        w, zeros = W.clone(), [torch.zeros_like(W) for _ in range(2)]
        step = torch.ones((), device=DEVICE)
        kernels.adam_([w], [g], zeros[:1], zeros[1:], [step], lr=LR, betas=BETAS, eps=EPS, clip=1.0)
        results.append(w)
    assert torch.equal(*results)
