"""The cached harvester is the streamed one, bit for bit."""

import dataclasses

import numpy as np
import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy, StopRequested, calibrate
from sae_lightning.activations.cache import CachedHarvester
from sae_lightning.activations.mask import real_tokens
from sae_lightning.core import Sites
from sae_lightning.tokens import Windows, WindowSample

from ..conftest import SITE
from .conftest import MICRO_BATCH, OTHER

SITES = {
    "sae": Sites((SITE,), (SITE,)),
    "transcoder": Sites((SITE,), (OTHER,)),
    "crosscoder": Sites((SITE, OTHER), (SITE, OTHER)),
    "uneven": Sites((OTHER,), (SITE, OTHER)),
}
NUMBERS = np.array([7, 0, 100, 3, 3, 50, 22, 41, 99, 5, 6])


@pytest.fixture(params=list(SITES))
def pair(request, lm, sample, built):
    sites = SITES[request.param]
    base = Harvester(lm, sites, sample, MaskPolicy(lm.special_ids, norm_multiple=1.05), MICRO_BATCH)
    streamed = base.with_mask(calibrate(base, 400, seed=2).mask)
    cached = CachedHarvester(built.caches, sites, sample, streamed.mask, MICRO_BATCH)
    return streamed, cached


def masks(lm):
    return [
        None,
        MaskPolicy(first_position=False, norm_multiple=None),
        MaskPolicy(lm.special_ids, norm_multiple=None),
        MaskPolicy((101, 116), norm_multiple=1.0, median_norm=3.0),
    ]


def same(a, b):
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert torch.equal(a.token_index, b.token_index)
    assert a.x.dtype == b.x.dtype
    assert (a.y is a.x) == (b.y is b.x)


def test_rows_under_every_mask(lm, pair):
    streamed, cached = pair
    assert (cached.d_in, cached.d_out, cached.same_sites) == (streamed.d_in, streamed.d_out, streamed.same_sites)
    assert (cached.dtype, cached.device, cached.micro_batch) == (streamed.dtype, streamed.device, streamed.micro_batch)
    assert 0 < len(cached.rows(NUMBERS)) < len(cached.with_mask(None).rows(NUMBERS))
    same(streamed.rows(NUMBERS), cached.rows(NUMBERS))
    for mask in masks(lm):
        same(streamed.with_mask(mask).rows(NUMBERS), cached.with_mask(mask).rows(NUMBERS))


def test_full_windows_are_equal_where_a_real_token_is_and_zero_elsewhere(pair):
    streamed, cached = pair
    tokens, x, y, keep = streamed.full_with_targets(NUMBERS)
    own_tokens, own_x, own_y, own_keep = cached.full_with_targets(NUMBERS)
    real = real_tokens(tokens)
    assert all(torch.equal(getattr(tokens, f.name), getattr(own_tokens, f.name)) for f in dataclasses.fields(tokens))
    assert torch.equal(keep, own_keep)
    assert torch.equal(x[real], own_x[real])
    assert torch.equal(y[real], own_y[real])
    assert not own_x[~real].any()
    assert not real.all()
    assert torch.equal(cached.full(NUMBERS)[1], own_x)


@pytest.mark.parametrize("n_tokens", [50, 400, 10**6])
def test_calibration_is_equal_bit_for_bit(pair, n_tokens):
    streamed, cached = pair
    a, b = calibrate(streamed, n_tokens, seed=4), calibrate(cached, n_tokens, seed=4)
    assert a.mask == b.mask
    assert a.stats == b.stats
    assert torch.equal(a.sample, b.sample)
    assert torch.equal(a.y_sample, b.y_sample)


def test_a_smaller_sample_is_served(lm, windows, built, pair):
    streamed, cached = pair
    small = WindowSample(windows, 40)
    same(streamed.with_windows(small).rows(range(40)), cached.with_windows(small).rows(range(40)))


def test_what_the_caches_do_not_hold_is_refused(windows, pair):
    _, cached = pair
    with pytest.raises(ValueError, match="holds 101 windows, the sample has 102"):
        cached.with_windows(WindowSample(windows, 102))
    other = Windows(windows.store, "heldout", context_length=16, heldout_fraction=0.3)
    with pytest.raises(ValueError, match="of other text"):
        cached.with_windows(WindowSample(other, 3))
    with pytest.raises(IndexError):
        cached.rows([101])
    with pytest.raises(ValueError, match="no windows"):
        cached.rows([])


def test_a_check_is_called_before_each_micro_batch(pair):
    _, cached = pair
    calls = []
    cached.rows(NUMBERS, lambda: calls.append(1))
    assert len(calls) == 3

    def stop():
        raise StopRequested

    with pytest.raises(StopRequested):
        cached.full(NUMBERS, stop)
