import numpy as np
import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy
from sae_lightning.core import Sites, UserError
from sae_lightning.tokens import Windows

from .conftest import SITE


def test_rows_are_the_kept_positions_of_the_windows_in_order(tools):
    numbers = np.array([5, 0, 9, 3, 7, 2])
    rows = tools.harvester.rows(numbers)
    batch, x, keep = tools.harvester.full(numbers)
    assert rows.y is rows.x
    assert rows.x.dtype == tools.lm.dtype
    assert torch.equal(rows.x, x[keep])
    assert torch.equal(rows.token_index, batch.token_index[keep])
    assert torch.equal(batch.tokens, tools.windows.batch(numbers).tokens)
    assert not keep[:, 0].any()
    assert not keep[batch.tokens == tools.lm.separator_id].any()
    assert (rows.token_index >= 0).all()


def test_micro_batches_do_not_change_the_rows(tools):
    one = tools.harvester
    other = Harvester(one.lm, one.sites, one.windows, one.mask, micro_batch=1)
    a, b = one.rows(range(8)), other.rows(range(8))
    assert torch.equal(a.token_index, b.token_index)
    torch.testing.assert_close(a.x.float(), b.x.float(), rtol=0.02, atol=0.02)
    # What resuming rests on: the same micro-batch gives the same bits whichever call it is part of.
    assert torch.equal(one.rows(range(4, 8)).x, a.x[-len(one.rows(range(4, 8))) :])


def test_several_sites_are_concatenated_and_transcoders_have_targets(tools):
    read, write = ("blocks.0.hook_resid_post", SITE), ("blocks.0.hook_mlp_out",)
    harvester = Harvester(tools.lm, Sites(read, write), tools.windows, None, micro_batch=4)
    assert (harvester.d_in, harvester.d_out, harvester.widths) == (64, 32, (32, 32))
    rows = harvester.rows(range(3))
    alone = [Harvester(tools.lm, Sites((s,), (s,)), tools.windows, None, 4).rows(range(3)).x for s in (*read, *write)]
    assert torch.equal(rows.x, torch.cat(alone[:2], 1))
    assert torch.equal(rows.y, alone[2])
    _, x, y, keep = harvester.full_with_targets(range(3))
    assert torch.equal(y[keep], rows.y)
    assert x.shape == (3, 16, 64)


def test_without_a_mask_every_real_token_counts(tools):
    plain = tools.harvester.with_mask(None)
    batch = tools.windows.batch(range(6))
    assert torch.equal(plain.rows(range(6)).token_index, batch.token_index[batch.token_index >= 0])


def test_the_check_runs_before_every_micro_batch(tools):
    calls = []
    tools.harvester.rows(range(10), check=lambda: calls.append(1))
    assert len(calls) == 3


def test_mistakes(tools):
    with pytest.raises(UserError, match="no such hook"):
        Harvester(tools.lm, Sites(("blocks.0.nothing",), (SITE,)), tools.windows, MaskPolicy())
    wide = Windows(tools.windows.store, "train", context_length=65, separator_id=256)
    with pytest.raises(UserError, match="at most 64, the context of tiny"):
        Harvester(tools.lm, Sites((SITE,), (SITE,)), wide, MaskPolicy())
