"""What lies on disk: vectors, provenance, sizes; growth, budgets, addresses."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sae_lightning.activations.cache import ActivationCache, CacheRequest, CacheTooBig, ensure, open_caches
from sae_lightning.activations.cache import build as build_module
from sae_lightning.activations.mask import row_norms
from sae_lightning.core import UserError, file_sha256
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import Windows, WindowSample

from ..conftest import SITE
from .conftest import MICRO_BATCH, OTHER, SHARD_BYTES, build, content, plain_rows


@pytest.mark.parametrize("site", [SITE, OTHER])
def test_every_real_token_is_there_with_the_lms_bits_and_its_provenance(lm, sample, built, site):
    cache = built.caches[site]
    expected = plain_rows(lm, sample, site)
    rows = np.arange(cache.n_rows)
    assert torch.equal(cache.gather(rows), expected.x)
    assert cache.dtype == expected.x.dtype
    text, position, token = cache.provenance(rows)
    located = sample.store.locate(expected.token_index.numpy())
    assert np.array_equal(text, located[0])
    assert np.array_equal(position, located[1])
    assert np.array_equal(token, sample.store.take(expected.token_index.numpy()))
    assert np.array_equal(cache.column("norm", rows), row_norms(expected.x).numpy())
    first, after = cache.window_rows(np.arange(len(sample)))
    assert first[0] == 0
    assert after[-1] == cache.n_rows
    assert np.array_equal(first[1:], after[:-1])
    places = cache.column("place", rows)
    batch = sample.batch(np.arange(len(sample)))
    window = np.repeat(np.arange(len(sample)), after - first)
    assert np.array_equal(batch.tokens.numpy()[window, places], token)


def test_files_are_safetensors_and_the_manifest_tells_their_sums(built):
    cache = built.caches[SITE]
    assert len(cache.manifest.shards) > 3
    with safe_open(cache.folder / cache.manifest.shards[1].file, "pt") as file:
        x = file.get_tensor("x")
    first = cache.manifest.shards[0].rows
    assert torch.equal(x, cache.gather(np.arange(first, first + len(x))))
    for entry in cache.manifest.shards:
        assert file_sha256(cache.folder / entry.file) == entry.sha256
        assert (cache.folder / entry.index).stat().st_size == entry.index_bytes
        with safe_open(cache.folder / entry.index, "np") as file:
            assert set(file.keys()) == {"offsets", "xxh3", "text", "position", "norm", "token", "place"}


def test_a_row_costs_little_more_than_its_vector(tmp_path):
    """The bar is 2 % at the width of SmolLM2; counted in the files of a built cache."""
    from experiments.benchmarks.cache_reader.fake import noise_cache

    cache, _ = noise_cache(tmp_path, 0.02, d=576, shard_mb=8)
    on_disk = sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file())
    assert on_disk / (cache.n_rows * 576 * 2) < 1.02


def test_several_sites_are_one_pass(lm, sample, tmp_path):
    before = lm.windows_read
    build(lm, sample, tmp_path, (SITE, OTHER, "blocks.0.hook_resid_post"))
    passes = -(-len(sample) // MICRO_BATCH)
    assert lm.windows_read - before == passes * MICRO_BATCH
    before = lm.windows_read
    build(lm, sample, tmp_path, (OTHER, SITE))
    assert lm.windows_read == before


def test_it_grows_by_appending(lm, sample, windows, tmp_path):
    small = WindowSample(windows, 30)
    (caches,) = build(lm, small, tmp_path)
    old = content(tmp_path)
    before = lm.windows_read
    (grown,) = build(lm, sample, tmp_path, (SITE, OTHER))
    # The windows that one cache lacked and those that both lacked, each once.
    assert lm.windows_read - before == MICRO_BATCH * (-(-30 // MICRO_BATCH) + -(-(101 - 30) // MICRO_BATCH))
    assert old.items() <= content(tmp_path).items()
    assert torch.equal(grown[SITE].gather(np.arange(grown[SITE].n_rows)), plain_rows(lm, sample, SITE).x)
    assert torch.equal(grown[OTHER].gather(np.arange(grown[OTHER].n_rows)), plain_rows(lm, sample, OTHER).x)
    # Who opened it before reads on what it knew.
    assert caches[SITE].n_windows == 30
    assert torch.equal(caches[SITE].gather(np.arange(9)), grown[SITE].gather(np.arange(9)))


def test_padded_windows_and_bos_leave_no_rows(lm, windows, tmp_path):
    base = Windows(
        windows.store, "train", context_length=16, packing="document", bos_id=lm.bos_id, prepend_bos=True, seed=0
    )
    sample = WindowSample(base, 20)
    (caches,) = build(lm, sample, tmp_path)
    expected = plain_rows(lm, sample, SITE)
    assert caches[SITE].n_rows == len(expected.x)
    assert torch.equal(caches[SITE].gather(np.arange(caches[SITE].n_rows)), expected.x)


def test_the_budget_is_checked_before_anything_is_written(lm, sample, built, tmp_path):
    need = sum(cache.manifest.n_bytes for cache in built.caches.values())
    before = lm.windows_read
    with pytest.raises(CacheTooBig, match=r"data\.cache_max_gb=1e-05: .* needs .* more and 0 MB lie in"):
        build(lm, sample, tmp_path, (SITE, OTHER), max_bytes=10_000)
    with pytest.raises(CacheTooBig):
        build(lm, sample, tmp_path, (SITE, OTHER), max_bytes=need)
    assert lm.windows_read == before
    assert not content(tmp_path)
    build(lm, sample, tmp_path, (SITE, OTHER), max_bytes=int(need * 1.2) + 200_000)
    there = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert there <= int(need * 1.2) + 200_000
    # What lies there counts, whatever it is of.
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").write_bytes(b"0" * 10_000_000)
    with pytest.raises(CacheTooBig):
        build(lm, sample, tmp_path, ("blocks.0.hook_resid_post",), max_bytes=10_000_000)
    # Nothing to write: no budget is asked.
    build(lm, sample, tmp_path, (SITE,), max_bytes=1)


def test_a_small_disk_is_refused_before_anything_is_written(lm, sample, tmp_path, monkeypatch):
    from sae_lightning.activations.cache import budget

    usage = budget.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CacheTooBig, match=r"the disk has 0\.001 MB free"):
        build(lm, sample, tmp_path)
    assert not content(tmp_path)


def test_train_and_heldout_are_budgeted_together(lm, sample, windows, built, tmp_path):
    heldout = WindowSample(Windows(windows.store, "heldout", context_length=16, heldout_fraction=0.3), 20)
    need = built.caches[SITE].manifest.n_bytes + 10_000
    requests = [CacheRequest(sample, (SITE,)), CacheRequest(heldout, (SITE,))]
    with pytest.raises(CacheTooBig):
        ensure(lm, requests, root=tmp_path, micro_batch=4, shard_bytes=SHARD_BYTES, max_bytes=need)
    assert not content(tmp_path)
    train, held = ensure(lm, requests, root=tmp_path, micro_batch=4, shard_bytes=SHARD_BYTES)
    assert (train[SITE].n_windows, held[SITE].n_windows) == (101, 20)


def test_another_format_is_one_line(lm, sample, tmp_path):
    (caches,) = build(lm, WindowSample(sample.base, 8), tmp_path)
    path = caches[SITE].folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    for act in (lambda: build(lm, sample, tmp_path), lambda: ActivationCache.open(path.parent)):
        with pytest.raises(UserError, match="of format 9, this version reads format 1; remove it"):
            act()
    path.write_text("{")
    with pytest.raises(UserError, match="is no manifest of an activation cache"):
        build(lm, sample, tmp_path)


def test_addresses_tell_apart_what_differs(lm, sample, windows):
    from sae_lightning.activations.cache.key import address, cache_key

    def of(lm=lm, windows=sample, site=SITE, micro_batch=4):
        return address(cache_key(lm, windows, site, micro_batch))

    longer = WindowSample(Windows(windows.store, "train", context_length=32, separator_id=lm.separator_id), 50)
    other_lm = FrozenLM.load("tiny", dtype="bfloat16", seed=1)
    other_dtype = FrozenLM.load("tiny", dtype="float32")
    different = [of(), of(site=OTHER), of(micro_batch=8), of(windows=longer), of(lm=other_lm), of(lm=other_dtype)]
    assert len(set(different)) == len(different)
    assert of(windows=WindowSample(windows, 7)) == of(), "the sample's size is no part of it"
    reseeded = Windows(windows.store, "train", context_length=16, separator_id=lm.separator_id, seed=5)
    assert of(windows=WindowSample(reseeded, 7)) == of(), "nor is a seed"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_dtypes(dtype, windows, tmp_path):
    lm = FrozenLM.load("tiny", dtype=dtype)
    sample = WindowSample(windows, 20)
    (caches,) = build(lm, sample, tmp_path)
    assert torch.equal(caches[SITE].gather(np.arange(caches[SITE].n_rows)), plain_rows(lm, sample, SITE).x)


def test_only_never_reads_the_language_model(lm, sample, windows, built):
    requests = [CacheRequest(sample, (SITE, OTHER))]
    before = lm.windows_read
    (caches,) = open_caches(lm, requests, root=built.root, micro_batch=MICRO_BATCH)
    assert set(caches) == {SITE, OTHER}
    more = [CacheRequest(WindowSample(windows, 110), (SITE,))]
    with pytest.raises(UserError, match=r"data\.cache=only: .* holds 101 of the 110 windows"):
        open_caches(lm, more, root=built.root, micro_batch=MICRO_BATCH)
    assert lm.windows_read == before


def test_shards_hold_whole_micro_batches(lm, sample, tmp_path):
    growing = build_module.Growing(tmp_path / "a", lm, sample, SITE, 4, SHARD_BYTES)
    assert growing.size == 12
    assert build_module.Growing(tmp_path / "a", lm, sample, SITE, 32, SHARD_BYTES).size == 15
    assert build_module.Growing(tmp_path / "a", lm, sample, SITE, 4, 1).size == 1


def test_a_shard_of_one_window_each_gives_the_same_rows(lm, sample, tmp_path):
    """Micro-batches that cross many shard boundaries."""
    small = WindowSample(sample.base, 10)
    (caches,) = build(lm, small, tmp_path, shard_bytes=1)
    assert [entry.windows for entry in caches[SITE].manifest.shards] == [1] * 10
    assert torch.equal(caches[SITE].gather(np.arange(caches[SITE].n_rows)), plain_rows(lm, small, SITE).x)
