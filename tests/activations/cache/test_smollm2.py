"""On the real language model: the bits of a cache are those of the stream, in bfloat16."""

import itertools

import pytest
import torch

from sae_lightning.activations import Harvester, MaskPolicy, StreamSource, calibrate
from sae_lightning.activations.cache import CachedHarvester, CachedSource, CacheRequest, ensure
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import EpochOrder, ListSource, Windows, WindowSample, write_tokens

SITE = "blocks.2.hook_resid_post"


@pytest.mark.lm
def test_cached_batches_are_the_streamed_ones(tmp_path):
    lm = FrozenLM.load("smollm2")
    texts = [f"Report {i}: " + "The river rose by two metres before the bridge was closed. " * 12 for i in range(40)]
    store = write_tokens(ListSource(texts), lm.tokenizer, tmp_path / "t.bin", vocab_size=lm.vocab_size)
    base = Windows(store, "train", context_length=64, separator_id=lm.separator_id)
    # 21 windows in passes of 8: the last one is filled up.
    sample = WindowSample(base, 21)
    streamed = Harvester(lm, Sites((SITE,), (SITE,)), sample, MaskPolicy(lm.special_ids), micro_batch=8)
    (caches,) = ensure(lm, [CacheRequest(sample, (SITE,))], root=tmp_path / "cache", micro_batch=8, shard_bytes=1 << 20)
    assert caches[SITE].dtype == torch.bfloat16
    cached = CachedHarvester(caches, streamed.sites, sample, streamed.mask, 8)
    found = calibrate(streamed, 600, seed=1)
    own = calibrate(cached, 600, seed=1)
    assert (own.mask, own.stats) == (found.mask, found.stats)
    assert torch.equal(own.sample, found.sample)
    streamed, cached = streamed.with_mask(found.mask), cached.with_mask(found.mask)
    options = {"batch_size": 128, "buffer_tokens": 512, "seed": 3}
    source = CachedSource(cached, EpochOrder(21, 3), **options)
    expected = StreamSource(streamed, EpochOrder(21, 3), **options)
    for a, b in zip(itertools.islice(source, 20), expected, strict=False):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.token_index, b.token_index)
    source.close()
