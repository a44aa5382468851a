import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.sae.kernels import triton as kernels
from tests.sae.kernels.triton.conftest import DEVICE

INTERPRETED = True


def naive(z: torch.Tensor, k: int) -> list[list[int]]:
    """Largest first, NaN before all, the earlier column first among equals."""

    def rank(row: list[float], column: int) -> tuple[bool, float, int]:
        value = row[column]
        return not math.isnan(value), 0.0 if math.isnan(value) else -value, column

    return [sorted(range(len(row)), key=lambda c: rank(row, c))[:k] for row in z.double().tolist()]  # used at once


def check(z: torch.Tensor, k: int) -> None:
    indices, values = kernels.row_top_k(z.to(DEVICE), k)
    assert indices.dtype == torch.int64
    assert indices.tolist() == naive(z, k)
    torch.testing.assert_close(values.cpu(), z.gather(1, indices.cpu()), rtol=0, atol=0, equal_nan=True)


@settings(max_examples=10, deadline=None)
@given(
    d=st.integers(1, 1500),
    k=st.integers(1, 40),
    levels=st.sampled_from([2, 5, 10_000]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 999),
)
def test_exact_with_ties(d, k, levels, dtype, seed):
    z = torch.randn(1, d, generator=torch.Generator().manual_seed(seed))
    check(((z * levels / 10).round() * 10 / levels).to(dtype), k)


def test_one_of_each_row():
    check(torch.randn(4, 2500, generator=torch.Generator().manual_seed(0)), 1)


def test_nan_and_infinities():
    z = torch.randn(3, 1100, generator=torch.Generator().manual_seed(0))
    z[0, 77], z[0, 1099], z[0, 5] = math.nan, -math.nan, math.inf
    z[1] = -math.inf
    z[1, 1050] = -1e38
    z[2] = math.nan
    for dtype in (torch.float32, torch.bfloat16):
        check(z.to(dtype), 6)


def test_zeros_of_both_signs_are_equal():
    z = -torch.rand(1, 300)
    z[0, 10:290] = torch.tensor([-0.0, 0.0]).repeat(140)
    check(z, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_numbers_in_few_lanes(dtype):
    """More numbers reach the bound of the lanes than are written down: the k-th is searched in the whole row."""
    d, lanes = 16 * 1024, 4096
    z = torch.randn(1, d, generator=torch.Generator().manual_seed(0))
    for lane in range(6):
        z[0, lane::lanes] += 50
        z[0, lane::1024] += 30
    z = torch.cat([z.repeat(1, 8)[:, : d + 5], torch.linspace(100, -5, d + 5)[None]])
    assert d + 5 > 2 * lanes
    check(z.to(dtype), 32)


def test_rows_that_do_not_lie_side_by_side():
    z = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    wide = torch.full((3, 1500), 9.0)
    wide[:, 100:1100] = z
    for view in (wide.to(DEVICE)[:, 100:1100], z.to(DEVICE).t().contiguous().t()):
        assert kernels.row_top_k(view, 4)[0].tolist() == naive(z, 4)


def test_more_than_the_kernels_take():
    z = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    check(z, 2000)


def test_no_rows():
    indices, values = kernels.row_top_k(torch.zeros(0, 7, device=DEVICE), 3)
    assert indices.shape == values.shape == (0, 3)
