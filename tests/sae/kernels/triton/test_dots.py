import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.sae.kernels import pattern_of
from sae_lightning.sae.kernels import triton as kernels
from tests.sae.kernels.triton.conftest import DEVICE
from tests.sae.kernels.triton.test_sums import numbers, ragged

INTERPRETED = True


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 12),
    d_sae=st.integers(1, 20),
    d=st.sampled_from([1, 3, 128, 129, 300]),
    seed=st.integers(0, 99),
    left=st.sampled_from([torch.float32, torch.bfloat16]),
    right=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_dots_equal_a_dense_product(n, d_sae, d, seed, left, right):
    mask, pattern = ragged(n, d_sae, seed)
    x, W = numbers(n, d, dtype=left), numbers(d_sae, d, seed=1, dtype=right)
    found = kernels.dot_rows(x.to(DEVICE), W.to(DEVICE), pattern)
    assert found.dtype == left
    rtol = 1e-5 if left == torch.float32 else 2 * torch.finfo(left).eps
    expected, terms = (a.double() @ b.double().t() for a, b in ((x, W), (x.abs(), W.abs())))
    error = (found.cpu().double() - expected[mask]).abs()
    assert (error <= rtol * expected[mask].abs() + 1e-6 * terms[mask]).all()


def test_matrices_that_lie_otherwise():
    _, pattern = ragged(5, 9, 0)
    x, W = numbers(5, 30).to(DEVICE), numbers(9, 30, seed=1).to(DEVICE)
    expected = kernels.dot_rows(x, W, pattern)
    turned = [m.t().contiguous().t() for m in (x, W)]
    assert torch.equal(kernels.dot_rows(*turned, pattern), expected)
    inside_wider = torch.cat([x, x + 1], 1)[:, :30], torch.cat([W, W + 1, W], 1)[:, :30]
    assert torch.equal(kernels.dot_rows(*inside_wider, pattern), expected)


def test_no_pairs():
    pattern = pattern_of(
        torch.zeros(0, dtype=torch.int64, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE), 6
    )
    assert kernels.dot_rows(numbers(3, 5).to(DEVICE), numbers(6, 5).to(DEVICE), pattern).shape == (0,)
