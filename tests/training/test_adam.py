"""The fused step against its four parts, done one after the other."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sae_lightning.sae import TopKSAE, initialise, remove_parallel_gradient, renormalise
from sae_lightning.training.adam import FusedAdam


def _sae(dtype: torch.dtype) -> TopKSAE:
    sae = TopKSAE(6, 20, k=3)
    initialise(sae, torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), seed=0)
    return sae.to(dtype)


def _gradients(sae: TopKSAE, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in sae.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def _naive(sae: TopKSAE, adam: torch.optim.Adam, clip: float | None, project: bool, norm: bool) -> Tensor:
    if project:
        remove_parallel_gradient(sae.W_dec)
    before = nn.utils.clip_grad_norm_(sae.parameters(), float("inf") if clip is None else clip)
    adam.step()
    if norm:
        renormalise(sae.W_dec)
    return before


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
@pytest.mark.parametrize(("project", "norm"), [(True, True), (False, True), (True, False), (False, False)])
def test_same_as_its_parts(clip: float | None, project: bool, norm: bool) -> None:
    ours, naive = _sae(torch.float64), _sae(torch.float64)
    names = [name for name, _ in ours.named_parameters()]
    fused = FusedAdam(
        [
            {
                "params": list(ours.parameters()),
                "lr": 0.01,
                "clip": clip,
                "decoder": names.index("W_dec"),
                "project": project,
                "renormalise": norm,
            }
        ]
    )
    adam = torch.optim.Adam(naive.parameters(), lr=0.01)
    for step in range(5):
        _gradients(ours, step)
        _gradients(naive, step)
        fused.step()
        before = _naive(naive, adam, clip, project, norm)
        assert fused.grad_norms[0] is not None
        torch.testing.assert_close(fused.grad_norms[0], before, rtol=1e-6, atol=0)
        for (name, mine), theirs in zip(ours.named_parameters(), naive.parameters(), strict=True):
            # The clip factor passes through float32.
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_state_survives_a_checkpoint_bit_for_bit() -> None:
    straight, broken = _sae(torch.float32), _sae(torch.float32)
    optimizers = [FusedAdam([{"params": list(s.parameters()), "clip": 1.0}]) for s in (straight, broken)]
    for step in range(6):
        for sae, optimizer in zip((straight, broken), optimizers, strict=True):
            _gradients(sae, step)
            optimizer.step()
        if step == 2:
            saved = copy.deepcopy(optimizers[1].state_dict())
            optimizers[1] = FusedAdam([{"params": list(broken.parameters()), "clip": 1.0}])
            optimizers[1].load_state_dict(saved)
    for mine, theirs in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_parameters_without_a_gradient_stay() -> None:
    sae = _sae(torch.float32)
    _gradients(sae, 0)
    sae.W_enc.grad = None
    before = sae.W_enc.detach().clone()
    optimizer = FusedAdam([{"params": list(sae.parameters())}])
    optimizer.step()
    assert torch.equal(sae.W_enc, before)
    assert sae.W_enc not in optimizer.state


def test_groups_are_clipped_on_their_own() -> None:
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    a.grad, b.grad = torch.full((3,), 100.0), torch.full((3,), 0.1)
    optimizer = FusedAdam([{"params": [a], "clip": 1.0}, {"params": [b], "clip": 1.0}])
    optimizer.step()
    norms = [float(n) for n in optimizer.grad_norms if n is not None]
    assert norms == pytest.approx([100 * 3**0.5, 0.1 * 3**0.5])
    # Adam's first moment shows the gradient that it was given.
    assert float(optimizer.state[a]["exp_avg"][0]) == pytest.approx(0.1 / 3**0.5, rel=1e-4)
    assert float(optimizer.state[b]["exp_avg"][0]) == pytest.approx(0.01, rel=1e-4)


def test_a_matrix_that_lies_by_column_is_stepped_like_one_that_lies_by_row() -> None:
    values, gradient = torch.randn(4, 7), torch.randn(4, 7)
    by_row, by_column = nn.Parameter(values.clone()), nn.Parameter(values.t().contiguous().t())
    by_row.grad, by_column.grad = gradient.clone(), gradient.clone()
    for parameter in (by_row, by_column):
        FusedAdam([{"params": [parameter]}]).step()
    assert torch.equal(by_row, by_column)


@pytest.mark.parametrize("who", ["moments", "parameter"])
def test_moments_follow_their_parameters_memory(who: str) -> None:
    straight, turned = _sae(torch.float32), _sae(torch.float32)
    optimizers = [FusedAdam([{"params": list(s.parameters())}], lr=1e-2) for s in (straight, turned)]
    for step in range(4):
        if step == 2 and who == "moments":
            state = optimizers[1].state_dict()
            for values in state["state"].values():
                values["exp_avg"], values["exp_avg_sq"] = (values[n].contiguous() for n in ("exp_avg", "exp_avg_sq"))
            optimizers[1].load_state_dict(state)
        elif step == 2:
            turned.W_enc.data = turned.W_enc.data.contiguous()
        for sae, optimizer in zip((straight, turned), optimizers, strict=True):
            _gradients(sae, step)
            optimizer.step()
    for mine, theirs in zip(straight.parameters(), turned.parameters(), strict=True):
        assert torch.equal(mine, theirs)
