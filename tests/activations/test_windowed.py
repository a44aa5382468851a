"""Batches of whole windows: the rows of a harvest, in order, resumable, dealt out to ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy, StopRequested, WindowSource
from sae_lightning.core import Ranks, Sites, UserError
from sae_lightning.tokens import EpochOrder

START = "blocks.0.hook_resid_post"


def source(tools: SimpleNamespace, batch_size: int = 64, start: str | None = START, **options) -> WindowSource:
    order = EpochOrder(len(tools.windows), 3)
    return WindowSource(tools.harvester, order, batch_size=batch_size, start=start, **options)


def test_rows_are_those_of_a_harvest_of_the_same_windows(tools) -> None:
    batch = source(tools).next()
    numbers = EpochOrder(len(tools.windows), 3).take(np.arange(4))
    rows = tools.harvester.rows(numbers)
    assert torch.equal(batch.x, rows.x.float())
    assert batch.y is batch.x
    assert torch.equal(batch.token_index, rows.token_index)
    tokens, acts, keep = tools.harvester.full(numbers)
    assert torch.equal(batch.windows.tokens, tokens.tokens)
    assert torch.equal(batch.written, acts)
    assert torch.equal(batch.keep, keep)
    assert torch.equal(batch.written[batch.keep].float(), batch.y)
    below = tools.lm.activations(tokens.tokens, [START])[START]
    assert torch.equal(batch.below, below)


def test_targets_of_a_transcoder(tools) -> None:
    sites = Sites(("blocks.1.mlp.hook_in",), ("blocks.1.hook_mlp_out",))
    mask = MaskPolicy(tools.lm.special_ids, norm_multiple=None)
    harvester = Harvester(tools.lm, sites, tools.windows, mask, micro_batch=4)
    made = WindowSource(harvester, EpochOrder(len(tools.windows), 3), batch_size=64, start=START).next()
    rows = harvester.rows(EpochOrder(len(tools.windows), 3).take(np.arange(4)))
    assert torch.equal(made.x, rows.x.float())
    assert torch.equal(made.y, rows.y.float())
    assert not torch.equal(made.x, made.y)
    assert torch.equal(made.written[made.keep].float(), made.y)


def test_goes_on_where_it_stood(tools) -> None:
    whole = source(tools)
    batches = [whole.next() for _ in range(4)]
    cut = source(tools)
    for _ in range(2):
        cut.next()
    again = source(tools)
    again.load_state_dict(cut.state_dict())
    for expected in batches[2:]:
        assert torch.equal(again.next().x, expected.x)
    with pytest.raises(UserError, match="micro_batch was 4, is 2 now"):
        source(tools, 32).load_state_dict(cut.state_dict())


def test_ranks_share_a_batch(tools) -> None:
    whole = source(tools).next()
    parts = [source(tools, ranks=Ranks(rank, 2)).next() for rank in (0, 1)]
    index = torch.cat([part.token_index for part in parts])
    assert torch.equal(index.sort().values, whole.token_index.sort().values)
    assert set(parts[0].token_index.tolist()).isdisjoint(parts[1].token_index.tolist())


def test_a_stop_leaves_the_place(tools) -> None:
    read = source(tools)
    read.next()
    read.request_stop()
    with pytest.raises(StopRequested):
        read.next()
    read.resume()
    expected = source(tools)
    expected.next()
    assert torch.equal(read.next().x, expected.next().x)


def test_batches_are_whole_windows(tools) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=15: an objective through the language model takes whole"):
        source(tools, 15)
    with pytest.raises(UserError, match=r"here 3 for 2 process\(es\)"):
        source(tools, 48, ranks=Ranks(0, 2))


def test_a_mask_that_leaves_nothing(tools) -> None:
    everything = MaskPolicy(tuple(range(tools.lm.vocab_size)), norm_multiple=None)
    harvester = tools.harvester.with_mask(everything)
    with pytest.raises(UserError, match="leaves no token of any window"):
        WindowSource(harvester, EpochOrder(len(tools.windows), 0), batch_size=64, start=None).next()
