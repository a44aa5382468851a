import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lightning.sae.kernels import triton as kernels
from tests.sae.kernels.triton.conftest import DEVICE

INTERPRETED = True


def naive(z: torch.Tensor, count: int) -> list[int]:
    """Places of the largest in flat order, NaN before all, the earlier place first among equals."""
    flat = z.double().flatten().tolist()
    size = [math.inf if math.isnan(v) else v for v in flat]
    best = sorted(range(len(flat)), key=lambda at: (not math.isnan(flat[at]), -size[at], at))
    return sorted(best[:count])


def check(z: torch.Tensor, count: int) -> None:
    places = kernels.largest_places(z.flatten().to(DEVICE), count)
    assert places.dtype == torch.int64
    assert places.tolist() == naive(z, count)


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(1, 5000),
    share=st.floats(0, 1),
    levels=st.sampled_from([2, 5, 10_000]),
    shift=st.sampled_from([-2.0, 0.0, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 999),
)
def test_exact_with_ties(size, share, levels, shift, dtype, seed):
    z = torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) + shift
    check(((z * levels / 10).round() * 10 / levels).to(dtype), max(1, int(share * size)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_chunks_with_ties_across_them(dtype):
    z = torch.randint(0, 4, (7, 8001), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert z.numel() > 3 * 8 * 2048
    top = int((z == 3).sum())
    for count in (1, top - 1, top, top + 9000):
        check(z, count)


def test_close_numbers_differ_in_the_last_bits():
    z = (torch.arange(20_000) + 0x3F800000).to(torch.int32).view(torch.float32)
    check(z[torch.randperm(20_000, generator=torch.Generator().manual_seed(0))].view(4, 5000), 777)


def test_nan_and_infinities():
    z = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    z[0, 77], z[2, 399], z[1, 5] = math.nan, -math.nan, math.inf
    z[1, 100:] = -math.inf
    for dtype in (torch.float32, torch.bfloat16):
        for count in (2, 50, 1100, 5000):
            check(z.to(dtype), count)


def test_zeros_of_both_signs_are_equal():
    z = torch.tensor([-0.0, 0.0, -1.0, -0.0, 0.0]).repeat(3, 20)
    check(z, 31)


def test_nothing_to_choose():
    for size, count in ((15, 0), (0, 4)):
        assert kernels.largest_places(torch.zeros(size, device=DEVICE), count).tolist() == []
