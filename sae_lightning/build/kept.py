"""From config to kept activations: which caches a run reads, and building what they lack."""

import logging
from collections.abc import Sequence
from pathlib import Path

from sae_lightning.activations import Harvester
from sae_lightning.activations.cache import (
    ActivationCache,
    CachedHarvester,
    CacheRequest,
    CacheTooBig,
    ensure,
    open_caches,
)
from sae_lightning.config import DataConfig, RunConfig
from sae_lightning.core import Sites
from sae_lightning.lm import FrozenLM
from sae_lightning.tokens import WindowSample

logger = logging.getLogger(__name__)


def cache_root(data: DataConfig) -> Path | None:
    """Return the folder of ``data.cache_dir``; None means the package's own."""
    return Path(data.cache_dir).expanduser() if data.cache_dir else None


def find_caches(
    data: DataConfig, lm: FrozenLM, sites: Sites, samples: Sequence[WindowSample]
) -> list[dict[str, ActivationCache]]:
    """Return the caches of these windows by site, after building what they lack (``data.cache=only`` builds nothing).

    Raises CacheTooBig before anything is written that would pass the budget or the disk; UserError with ``only`` for
    a cache that is missing or too small.
    """
    wanted = tuple(dict.fromkeys([*sites.read, *sites.write]))
    requests = [CacheRequest(sample, wanted) for sample in samples]
    if data.cache == "only":
        return open_caches(lm, requests, root=cache_root(data), micro_batch=data.micro_batch)
    return ensure(
        lm,
        requests,
        root=cache_root(data),
        micro_batch=data.micro_batch,
        shard_bytes=int(data.cache_shard_mb * 2**20),
        max_bytes=int(data.cache_max_gb * 1e9),
    )


def cached_harvesters(
    config: RunConfig, streamed: Sequence[Harvester], before: bool | None = None
) -> dict[str, CachedHarvester] | None:
    """Return harvesters of kept activations by split, in place of those that read the language model.

    None with ``data.cache=off``, and with ``auto`` where the cache would pass its budget or the disk (that is said).
    before: what the run did when it began, which a resumed one must do again.
    Raises UserError with ``only`` for a cache that is missing or too small.
    """
    data = config.data
    # Rows of whole windows are read in order and once, and at places where nothing is kept.
    if data.cache == "off" or before is False or config.objective.end_to_end:
        return None
    lm, sites = streamed[0].lm, streamed[0].sites
    samples = [harvester.windows for harvester in streamed if isinstance(harvester.windows, WindowSample)]
    assert len(samples) == len(streamed), "kept activations are those of window samples"
    try:
        caches = find_caches(data, lm, sites, samples)
    except CacheTooBig as error:
        if before:
            raise  # its checkpoint is a place in the cache
        logger.warning("%s; streaming this run", error)
        return None
    return {
        sample.split: CachedHarvester(found, sites, sample, harvester.mask, data.micro_batch, device=lm.device)
        for sample, found, harvester in zip(samples, caches, streamed, strict=True)
    }
