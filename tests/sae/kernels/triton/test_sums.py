import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.sae.kernels import SparsePattern, pattern_of
from sae_lightning.sae.kernels import triton as kernels
from tests.sae.kernels.triton.conftest import DEVICE

INTERPRETED = True


def ragged(n, d_sae, seed, share=0.3) -> tuple[torch.Tensor, SparsePattern]:
    """Return a mask with empty rows and features, and its pattern on the device."""
    mask = torch.rand(n, d_sae, generator=torch.Generator().manual_seed(seed)) < share
    mask[n // 2] = False
    mask[:, d_sae // 2] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return mask, pattern_of(mask.nonzero()[:, 1].contiguous().to(DEVICE), offsets.to(DEVICE), d_sae)


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(n, d_sae, d, seed, dtype, share=0.3) -> None:
    """Compare all products with dense ones in float64."""
    mask, pattern = ragged(n, d_sae, seed, share)
    values = numbers(int(mask.sum()), seed=1, dtype=dtype)
    W, x = numbers(d_sae, d, seed=2, dtype=dtype), numbers(n, d, seed=3, dtype=dtype)
    dense = torch.zeros(n, d_sae, dtype=torch.float64)
    dense[mask] = values.double()
    v = values.to(DEVICE)
    y = kernels.sum_rows(W.to(DEVICE), pattern.indices, pattern.offsets, v)
    gradient = kernels.by_feature(x.to(DEVICE), v, pattern)
    sums = kernels.sum_by_feature(v, pattern)
    assert y.dtype == gradient.dtype == sums.dtype == dtype
    rtol = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    for found, expected, terms in (
        (y, dense @ W.double(), dense.abs() @ W.double().abs()),
        (gradient, dense.t() @ x.double(), dense.abs().t() @ x.double().abs()),
        (sums, dense.sum(0), dense.abs().sum(0)),
    ):
        assert found.shape == expected.shape
        # Rounding is relative to the sum of the terms' sizes, of which a thousand cancel.
        assert ((found.cpu().double() - expected).abs() <= rtol * expected.abs() + 1e-6 * terms).all()


@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(1, 12),
    d_sae=st.integers(1, 20),
    d=st.sampled_from([1, 3, 64, 100, 129, 300]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_sums_equal_dense_products(n, d_sae, d, seed, dtype):
    check(n, d_sae, d, seed, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_popular_features_are_split(dtype):
    check(300, 6, 20, 0, dtype, share=0.95)


@pytest.mark.parametrize("counts", [[256, 256], [255, 1, 256], [512], [1, 511, 1], [257], [100, 1000, 3, 600]])
def test_cuts_at_the_borders_of_features(counts):
    """Feature f is active on the first counts[f] rows."""
    n, d_sae = max(counts), len(counts)
    mask = torch.arange(n)[:, None] < torch.tensor(counts)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    pattern = pattern_of(mask.nonzero()[:, 1].contiguous().to(DEVICE), offsets.to(DEVICE), d_sae)
    values, x = numbers(int(mask.sum())), numbers(n, 5, seed=1)
    dense = torch.zeros(n, d_sae, dtype=torch.float64)
    dense[mask] = values.double()
    found = kernels.by_feature(x.to(DEVICE), values.to(DEVICE), pattern).cpu().double()
    torch.testing.assert_close(found, dense.t() @ x.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        kernels.sum_by_feature(values.to(DEVICE), pattern).cpu().double(), dense.sum(0), rtol=1e-5, atol=1e-4
    )


def test_same_bits_every_run():
    mask, pattern = ragged(300, 3, 0, 0.95)
    x, values = numbers(300, 20).to(DEVICE), numbers(int(mask.sum())).to(DEVICE)
    first = kernels.by_feature(x, values, pattern)
    assert torch.equal(first, kernels.by_feature(x, values, pattern))


def test_a_matrix_that_lies_by_column():
    mask, pattern = ragged(5, 9, 0)
    W, values = numbers(9, 30), numbers(int(mask.sum())).to(DEVICE)
    by_column = W.t().contiguous().to(DEVICE).t()
    assert torch.equal(
        kernels.sum_rows(by_column, pattern.indices, pattern.offsets, values),
        kernels.sum_rows(W.to(DEVICE), pattern.indices, pattern.offsets, values),
    )


def test_nothing_active():
    empty, offsets = torch.zeros(0, dtype=torch.int64, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE)
    pattern, values = pattern_of(empty, offsets, 6), torch.zeros(0, device=DEVICE)
    W, x = numbers(6, 5).to(DEVICE), numbers(3, 5).to(DEVICE)
    assert torch.equal(kernels.sum_rows(W, empty, offsets, values).cpu(), torch.zeros(3, 5))
    assert torch.equal(kernels.by_feature(x, values, pattern).cpu(), torch.zeros(6, 5))
    assert torch.equal(kernels.sum_by_feature(values, pattern).cpu(), torch.zeros(6))


def test_nan_stays_in_its_bag():
    mask, pattern = ragged(5, 9, 0, 0.8)
    x = numbers(5, 30)
    x[1, 7] = float("nan")
    found = kernels.by_feature(x.to(DEVICE), torch.ones(int(mask.sum()), device=DEVICE), pattern).cpu()
    expected = torch.zeros(9, 30, dtype=torch.bool)
    expected[mask[1], 7] = True
    assert torch.equal(found.isnan(), expected)
