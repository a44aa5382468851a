"""Bytes that change on disk are never handed out: named, rebuilt to the same bytes, or refused."""

import itertools
import logging

import numpy as np
import pytest
import torch

from sae_lightning.activations import StreamSource
from sae_lightning.activations.cache import (
    CachedHarvester,
    CachedSource,
    CacheRequest,
    catalogue,
    choose,
    open_caches,
    remove,
    verify,
)
from sae_lightning.core import UserError
from sae_lightning.tokens import EpochOrder

from ..conftest import SITE
from .conftest import MICRO_BATCH, build, content


@pytest.fixture
def own(lm, sample, tmp_path):
    """A cache of this test alone, its expected rows, and the bytes of its files."""
    (caches,) = build(lm, sample, tmp_path)
    cache = caches[SITE]
    return cache, cache.gather(np.arange(cache.n_rows)).clone(), content(tmp_path)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path, at):
    path.write_bytes(path.read_bytes()[:-1])


def lose(path, at):
    path.unlink()


def torn_header(path, at):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


DAMAGE = {"bit": flip, "cut": cut, "lost": lose, "header": torn_header}


@pytest.mark.parametrize("kind", list(DAMAGE))
@pytest.mark.parametrize("which", ["file", "index"])
def test_a_damaged_shard_is_named_and_rebuilt_to_the_same_bytes(lm, sample, tmp_path, own, caplog, kind, which):
    cache, expected, files = own
    entry = cache.manifest.shards[2]
    path = cache.folder / getattr(entry, which)
    DAMAGE[kind](path, path.stat().st_size - 100)
    (caches,) = build(lm, sample, tmp_path)
    before = lm.windows_read
    with caplog.at_level(logging.WARNING, "sae_lightning"):
        rows = caches[SITE].gather(np.arange(cache.n_rows))
    assert torch.equal(rows, expected)
    assert entry.file in caplog.text
    assert "rebuilding it" in caplog.text
    assert lm.windows_read - before == entry.windows, "only that shard is read again"
    assert content(tmp_path) == files
    (again,) = build(lm, sample, tmp_path)
    assert torch.equal(again[SITE].gather(np.arange(cache.n_rows)), expected)


def test_a_window_is_checked_when_it_is_touched_and_only_its_shard_suffers(lm, sample, tmp_path, own):
    """Without a language model: rows of other shards are read, those of the damaged one refused."""
    cache, expected, _ = own
    entry = cache.manifest.shards[1]
    flip(cache.folder / entry.file, 4096 + 5)
    (caches,) = open_caches(lm, [CacheRequest(sample, (SITE,))], root=tmp_path, micro_batch=MICRO_BATCH)
    first = cache.manifest.shards[0].rows
    assert torch.equal(caches[SITE].gather(np.arange(first)), expected[:first])
    with pytest.raises(UserError, match=rf"{entry.file}: the shard is damaged .* run with data\.cache=auto"):
        caches[SITE].gather(np.array([0, first + 1]))
    missing = cache.folder / cache.manifest.shards[3].file
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        caches[SITE].gather(np.array([sum(shard.rows for shard in cache.manifest.shards[:3])]))


def test_training_on_a_damaged_cache_sees_the_streamed_batches(lm, sample, streamed, tmp_path, own):
    cache, _, files = own
    for entry in cache.manifest.shards[::2]:
        flip(cache.folder / entry.file, 4096 + entry.rows * 64 // 2)
    (caches,) = build(lm, sample, tmp_path)
    harvester = CachedHarvester(caches, streamed.sites, sample, streamed.mask, MICRO_BATCH)
    source = CachedSource(harvester, EpochOrder(len(sample), 0), batch_size=24, buffer_tokens=150)
    expected = StreamSource(streamed, EpochOrder(len(sample), 0), batch_size=24, buffer_tokens=150)
    for a, b in zip(itertools.islice(source, 60), expected, strict=False):
        assert torch.equal(a.x, b.x)
    source.close()
    assert content(tmp_path) == files


def test_training_without_a_language_model_ends_with_the_shards_name(lm, sample, streamed, tmp_path, own):
    cache, _, _ = own
    for entry in cache.manifest.shards:
        flip(cache.folder / entry.file, 4096 + 7)
    (caches,) = open_caches(lm, [CacheRequest(sample, (SITE,))], root=tmp_path, micro_batch=MICRO_BATCH)
    harvester = CachedHarvester(caches, streamed.sites, sample, streamed.mask, MICRO_BATCH)
    source = CachedSource(harvester, EpochOrder(len(sample), 0), batch_size=24, buffer_tokens=150)
    with pytest.raises(UserError, match="shard-0000"):
        list(itertools.islice(source, 200))
    source.close()


def test_a_rebuild_waits_for_nobody_who_has_done_it(lm, sample, tmp_path, own):
    """Two readers found the same damage: the second finds the shard whole."""
    cache, expected, _ = own
    flip(cache.folder / cache.manifest.shards[0].file, 5000)
    (first,), (second,) = build(lm, sample, tmp_path), build(lm, sample, tmp_path)
    assert torch.equal(first[SITE].gather(np.arange(10)), expected[:10])
    before = lm.windows_read
    # The second has mapped nothing yet: it opens the mended file.
    assert torch.equal(second[SITE].gather(np.arange(10)), expected[:10])
    assert lm.windows_read == before


def test_verify_names_what_is_damaged(tmp_path, own):
    cache, _, _ = own
    (listed,) = catalogue(tmp_path)
    assert verify(listed) == []
    flip(cache.folder / cache.manifest.shards[4].index, 4200)
    cut(cache.folder / cache.manifest.shards[1].file, 0)
    problems = verify(listed)
    assert [problem.split(":")[0].rsplit("/", 1)[1] for problem in problems] == [
        cache.manifest.shards[i].file for i in (1, 4)
    ]
    (cache.folder / "manifest.json").write_text("no json")
    (listed,) = catalogue(tmp_path)
    assert "is no manifest" in verify(listed)[0]


def test_prune_chooses_by_name_age_and_size(lm, sample, tmp_path):
    import os

    build(lm, sample, tmp_path, ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"))
    now = 1_000_000_000
    for days, cache in zip((1, 10, 40), catalogue(tmp_path), strict=True):
        os.utime(cache.folder / ".used", (now - days * 86_400,) * 2)
    caches = catalogue(tmp_path)
    new, middle, old = caches
    assert new.used > middle.used > old.used
    assert choose(caches) == []
    assert choose(caches, [middle.address[:8]], now=now) == [middle]
    assert choose(caches, older_than_days=5, now=now) == [middle, old]
    assert choose(caches, to_bytes=new.bytes + middle.bytes, now=now) == [old]
    assert choose(caches, to_bytes=new.bytes, now=now) == [old, middle]
    assert choose(caches, [old.address], to_bytes=new.bytes + middle.bytes) == [old]
    assert len(choose(caches, to_bytes=0)) == 3
    with pytest.raises(UserError, match="names no cache"):
        choose(caches, ["zz"])
    with pytest.raises(UserError, match="names several"):
        choose(caches, [""])
    assert remove(tmp_path, [old]) == old.bytes
    assert catalogue(tmp_path) == [new, middle]


def test_a_cache_that_was_pruned_while_it_was_read_says_so(lm, sample, tmp_path, own):
    (caches,) = build(lm, sample, tmp_path)
    remove(tmp_path, catalogue(tmp_path))
    with pytest.raises(UserError, match="removed while it was read"):
        caches[SITE].gather(np.arange(5))
