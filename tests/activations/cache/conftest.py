from pathlib import Path
from types import SimpleNamespace

import pytest

from sae_lightning.activations import Harvester, MaskPolicy, calibrate
from sae_lightning.activations.cache import CacheRequest, ensure
from sae_lightning.core import Sites
from sae_lightning.tokens import WindowSample

from ..conftest import SITE

OTHER = "blocks.0.hook_mlp_out"
MICRO_BATCH = 4
SHARD_BYTES = 16_000  # 15 windows of 16 x 32 bfloat16, in whole micro-batches: 12


@pytest.fixture(scope="session")
def sample(windows):
    """The windows that caches of these tests hold: not a multiple of the micro-batch or the shard."""
    return WindowSample(windows, 101)


@pytest.fixture(scope="session")
def streamed(lm, sample):
    """A harvester with a mask that takes some tokens by their norm."""
    base = Harvester(lm, Sites((SITE,), (SITE,)), sample, MaskPolicy(lm.special_ids, norm_multiple=1.05), MICRO_BATCH)
    return base.with_mask(calibrate(base, 500, seed=0).mask)


@pytest.fixture(scope="session")
def built(lm, sample, tmp_path_factory):
    """Caches of two sites, read only: (root, site -> cache). Tests that damage something build their own."""
    root = tmp_path_factory.mktemp("activations")
    (caches,) = build(lm, sample, root, (SITE, OTHER))
    return SimpleNamespace(root=root, caches=caches)


def build(lm, sample, root: Path, sites=(SITE,), **options):
    """``ensure`` with this folder's sizes."""
    options = {"root": root, "micro_batch": MICRO_BATCH, "shard_bytes": SHARD_BYTES, **options}
    return ensure(lm, [CacheRequest(sample, tuple(sites))], **options)


def content(root: Path) -> dict[str, bytes]:
    """Return every file of shards below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("shard-*"))}


def plain_rows(lm, windows, site):
    """All real tokens of all windows, from the language model."""
    harvester = Harvester(lm, Sites((site,), (site,)), windows, None, MICRO_BATCH)
    return harvester.rows(range(len(windows)))
