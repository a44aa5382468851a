"""One seed, one stream: the cached source's batches are the streamed one's, wherever either stops."""

import gc
import itertools
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from sae_lightning.activations import ActivationSource, MaskPolicy, StopRequested, StreamSource
from sae_lightning.activations.cache import ActivationCache, CachedHarvester, CachedSource
from sae_lightning.activations.cache.ahead import Ahead
from sae_lightning.core import Sites, UserError
from sae_lightning.tokens import EpochOrder

from ..conftest import SITE
from .conftest import MICRO_BATCH, OTHER

OPTIONS = {"batch_size": 24, "buffer_tokens": 150}


@pytest.fixture
def cached(sample, built, streamed):
    return CachedHarvester(built.caches, streamed.sites, sample, streamed.mask, MICRO_BATCH)


@pytest.fixture
def make(cached, sample):
    """Return a function that makes cached sources and closes them after the test."""
    sources = []

    def source(seed=0, harvester=cached, **options):
        sources.append(CachedSource(harvester, EpochOrder(len(sample), seed), seed=seed, **{**OPTIONS, **options}))
        return sources[-1]

    yield source
    for made in sources:
        made.close()


def stream(streamed, sample, seed=0, **options):
    return StreamSource(streamed, EpochOrder(len(sample), seed), seed=seed, **{**OPTIONS, **options})


def take(source, n):
    return list(itertools.islice(source, n))


def equal(a, b):
    return len(a) == len(b) and all(
        torch.equal(p.x, q.x) and torch.equal(p.y, q.y) and torch.equal(p.token_index, q.token_index)
        for p, q in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 3},
        {"mix": 0.0},
        {"mix": 0.9},
        {"budget": 40 * 24},
        {"buffer_tokens": 24},
        {"buffer_tokens": 5000, "batch_size": 300},
        {"share": 0.3, "share_seed": 5},
        {"share": 0.05, "share_seed": 1, "buffer_tokens": 60},
    ],
)
def test_batches_are_those_of_the_streamed_source(make, streamed, sample, options):
    """Three epochs and more."""
    n = 40 if "budget" in options or options.get("batch_size") else 150
    assert equal(take(make(**options), n), take(stream(streamed, sample, **options), n))


@pytest.mark.parametrize("sites", [Sites((SITE,), (OTHER,)), Sites((SITE, OTHER), (SITE, OTHER))])
def test_transcoders_and_crosscoders(lm, make, sample, built, sites):
    from sae_lightning.activations import Harvester, calibrate

    base = Harvester(lm, sites, sample, MaskPolicy(lm.special_ids, norm_multiple=1.05), MICRO_BATCH)
    streamed = base.with_mask(calibrate(base, 400, seed=2).mask)
    cached = CachedHarvester(built.caches, sites, sample, streamed.mask, MICRO_BATCH)
    ours, theirs = take(make(harvester=cached), 60), take(stream(streamed, sample), 60)
    assert equal(ours, theirs)
    assert (ours[0].y is ours[0].x) == (theirs[0].y is theirs[0].x)


def test_the_language_model_is_not_read(make, lm):
    before = lm.windows_read
    take(make(), 100)
    assert lm.windows_read == before


def test_is_a_source_whose_state_is_small(make, tmp_path):
    source = make()
    assert isinstance(source, ActivationSource)
    (batch,) = take(source, 1)
    assert batch.x.shape == (24, source.d_in)
    assert batch.x.dtype == torch.float32
    torch.save(source.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["rows"].dtype == torch.int64
    values = [value for value in source.state_dict().values() if isinstance(value, torch.Tensor)]
    assert sum(value.numel() * value.element_size() for value in values) < 16 * 400 + 6000


def test_resume_is_exact_wherever_it_stops(make, streamed, sample):
    whole = take(stream(streamed, sample), 30)
    source = make()
    for done in range(20):
        state = source.state_dict()
        fresh = make()
        take(fresh, 2)
        fresh.load_state_dict(state)
        assert equal(take(fresh, 8), whole[done : done + 8]), done
        assert equal(take(source, 1), whole[done : done + 1])


def test_an_earlier_snapshot_can_still_be_written(make):
    source = make()
    take(source, 3)
    mark = source.snapshot()
    ahead = take(source, 9)
    fresh = make()
    fresh.load_state_dict(source.state_dict(mark))
    assert equal(take(fresh, 9), ahead)


def test_batches_handed_out_stay_as_they_were(make):
    source = make()
    first = source.next()
    copy = first.x.clone()
    take(source, 20)
    assert torch.equal(first.x, copy)


def test_closing_keeps_the_place(make, streamed, sample):
    source = make()
    done = take(source, 5)
    source.close()
    source.close()
    assert equal(done + take(source, 10), take(stream(streamed, sample), 15))


def test_a_stop_keeps_the_place(make, streamed, sample):
    source = make()
    done = take(source, 4)
    before = source.state_dict()
    source.request_stop()
    for _ in range(2):
        with pytest.raises(StopRequested):
            source.next()
    assert torch.equal(source.state_dict()["rows"], before["rows"])
    source.resume()
    assert equal(done + take(source, 4), take(stream(streamed, sample), 8))


def test_a_stop_is_heard_while_the_disk_is_waited_for(make, built, monkeypatch):
    source = make()
    held = threading.Event()
    monkeypatch.setattr(type(built.caches[SITE]), "verify", lambda self, windows: held.wait(20))
    threading.Timer(0.2, source.request_stop).start()
    begin = time.monotonic()
    with pytest.raises(StopRequested):
        source.next()
    assert time.monotonic() - begin < 10
    held.set()


def threads():
    return {t for t in threading.enumerate() if t.name in ("cached batches", "checked windows")}


def test_threads_end_with_the_source(cached, sample):
    before = threads()
    source = CachedSource(cached, EpochOrder(len(sample), 0), **OPTIONS)
    source.next()
    assert len(threads() - before) == 2
    source.close()
    assert threads() == before
    source.next()
    del source
    gc.collect()
    deadline = time.monotonic() + 10
    while threads() != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threads() == before


def test_a_process_that_does_not_close_ends(built, sample, tmp_path):
    script = textwrap.dedent(
        f"""
        import torch
        torch.set_num_threads(1)
        from sae_lightning.activations.cache import ActivationCache, CachedHarvester, CachedSource
        from sae_lightning.core import Sites
        from sae_lightning.tokens import EpochOrder, TokenStore, Windows, WindowSample
        store = TokenStore.open({str(sample.store.path)!r})
        windows = WindowSample(Windows(store, "train", context_length=16, separator_id=256, seed=0), 101)
        cache = ActivationCache.open({str(built.caches[SITE].folder)!r})
        harvester = CachedHarvester({{{SITE!r}: cache}}, Sites(({SITE!r},), ({SITE!r},)), windows, None, 4)
        source = CachedSource(harvester, EpochOrder(101, 0), batch_size=24, buffer_tokens=150)
        for _ in range(3):
            source.next()
        print("done", flush=True)
        """
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (0, "done\n", "")


def test_a_state_of_another_stream_is_refused(make, streamed, sample):
    state = make().state_dict()
    with pytest.raises(UserError, match="batch_size was 24, is 25 now"):
        make(batch_size=25).load_state_dict(state)
    with pytest.raises(UserError, match=r"share was 1\.0, is \[0\.5, 0\] now"):
        make(share=0.5).load_state_dict(state)
    other = stream(streamed, sample)
    with pytest.raises(UserError, match="kind was 'lm', is 'cache' now"):
        make().load_state_dict(other.state_dict())


def test_mistakes(make, cached):
    with pytest.raises(UserError, match="fewer than one batch"):
        make(batch_size=10**6, buffer_tokens=10**6)
    nothing = cached.with_mask(MaskPolicy(tuple(range(257)), norm_multiple=None))
    source = make(harvester=nothing)
    for _ in range(2):
        with pytest.raises(UserError, match="leaves no token"):
            source.next()


def test_ahead_gives_items_errors_and_the_end_in_order():
    def items():
        yield 1
        yield 2
        raise KeyError("three")

    ahead = Ahead(items(), 1, "test")
    assert [ahead.next(), ahead.next()] == [1, 2]
    for _ in range(2):
        with pytest.raises(KeyError):
            ahead.next()
    ahead.close()
    done = Ahead(iter([1]), 5, "test")
    assert done.next() == 1
    with pytest.raises(StopIteration):
        done.next()


def test_ahead_runs_no_further_than_its_depth():
    drawn = []

    def items():
        for i in itertools.count():
            drawn.append(i)
            yield i

    ahead = Ahead(items(), 3, "test")
    ahead.next()
    time.sleep(0.3)
    assert len(drawn) <= 1 + 3 + 1
    ahead.close()


def test_a_state_goes_on_with_caches_that_were_just_opened(make, cached, built, sample):
    """As a new process has them: no window was checked, no shard mapped."""
    source = make()
    take(source, 3)
    state = source.state_dict()
    caches = {site: ActivationCache.open(cache.folder) for site, cache in built.caches.items()}
    reopened = CachedHarvester(caches, cached.sites, sample, cached.mask, MICRO_BATCH)
    fresh = make(harvester=reopened)
    fresh.load_state_dict(state)
    assert equal(take(fresh, 8), take(source, 8))


def test_rows_of_a_shard_that_nobody_opened_are_an_error_and_no_crash(built):
    cache = ActivationCache.open(built.caches[SITE].folder)
    with pytest.raises(RuntimeError, match="not open"):
        cache.gather(np.arange(3), torch.empty(3, cache.d, dtype=cache.dtype), checked=True)
