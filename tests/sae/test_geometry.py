import torch
from scipy.optimize import minimize

from sae_lightning.sae import geometric_median, remove_parallel_gradient, renormalise


def test_geometric_median_minimises_the_summed_distance():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1, 2, 3, 9.0])
    x[:5] += 100
    found = geometric_median(x)
    best = minimize(lambda m: float((x - torch.as_tensor(m)).norm(dim=1).sum()), x.mean(0).numpy(), tol=1e-10)
    torch.testing.assert_close(found, torch.as_tensor(best.x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(geometric_median(x + 1e6), found + 1e6, rtol=0, atol=1e-4)


def test_geometric_median_of_equal_rows_and_of_one_row():
    for rows in (1, 7):
        x = torch.full((rows, 3), 5.0)
        torch.testing.assert_close(geometric_median(x), x[0].double())


def test_parallel_gradient_is_removed():
    W = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    remove_parallel_gradient(W)
    assert W.grad is None
    gradient = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    W.data[3] = 0
    W.grad = gradient.clone()
    remove_parallel_gradient(W)
    assert (W.grad * W).sum(1).abs().max() < 1e-5
    removed = gradient - W.grad
    torch.testing.assert_close(
        removed, (removed * W).sum(1, keepdim=True) * W / W.square().sum(1, keepdim=True).clamp(1e-9)
    )
    assert torch.equal(W.grad[3], gradient[3])


def test_renormalise():
    W = torch.randn(20, 6).requires_grad_()
    W.data[3] = 0
    renormalise(W)
    expected = torch.ones(20)
    expected[3] = 0
    torch.testing.assert_close(W.norm(dim=1), expected)
    renormalise(W, 0.1)
    torch.testing.assert_close(W.norm(dim=1), expected * 0.1)
