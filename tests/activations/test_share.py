"""A random share of the tokens: seeded, independent of order, near its size."""

import numpy as np
import pytest
import torch

from sae_lightning.activations.share import TokenShare
from sae_lightning.core import ActivationBatch, UserError


def test_a_share_of_one_is_everything():
    index = torch.arange(100)
    batch = ActivationBatch(x=torch.zeros(100, 2), y=torch.zeros(100, 2), token_index=index)
    assert TokenShare(1.0, 3).keep(index).all()
    assert TokenShare(1.0, 3).rows(batch) is batch


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_size_and_spread_are_those_of_independent_draws(share):
    n = 200_000
    for seed in range(3):
        keep = TokenShare(share, seed).keep(torch.arange(n)).numpy()
        sigma = np.sqrt(n * share * (1 - share))
        assert abs(keep.sum() - n * share) < 5 * sigma
        # Neighbours and tokens a power of two apart are independent of each other.
        for lag in (1, 2, 64, 1024):
            both = (keep[lag:] & keep[:-lag]).sum()
            m, p = n - lag, share * share
            # Pairs overlap, so the variance is up to three times that of independent ones.
            assert abs(both - m * p) < 5 * np.sqrt(3 * m * p * (1 - p))


def test_the_same_tokens_whatever_the_order_and_others_for_another_seed():
    index = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    share = TokenShare(0.1, 7)
    assert set(index[share.keep(index)].tolist()) == set(torch.arange(5000)[share.keep(torch.arange(5000))].tolist())
    assert not torch.equal(share.keep(index), TokenShare(0.1, 8).keep(index))


def test_a_larger_share_contains_a_smaller_one():
    index = torch.arange(20_000)
    small, large = TokenShare(0.1, 2).keep(index), TokenShare(0.3, 2).keep(index)
    assert (large | ~small).all()


def test_rows_go_with_their_targets():
    index = torch.arange(50)
    x, y = torch.randn(50, 3), torch.randn(50, 2)
    share = TokenShare(0.4, 0)
    keep = share.keep(index)
    out = share.rows(ActivationBatch(x=x, y=y, token_index=index))
    assert torch.equal(out.x, x[keep])
    assert torch.equal(out.y, y[keep])
    assert torch.equal(out.token_index, index[keep])


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_outside_0_to_1(share):
    with pytest.raises(UserError, match=r"data\.share"):
        TokenShare(share)
