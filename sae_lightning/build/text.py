"""From config to a run on text: language model, token windows, and rows that are streamed or kept."""

import logging
import math
from typing import Any

from sae_lightning.activations import Harvester, MaskPolicy, StreamSource, WindowSource, calibrate
from sae_lightning.activations.cache import ActivationCache, CachedHarvester, CachedSource
from sae_lightning.build.data import Data, Fitted
from sae_lightning.build.device import apart, row_ranks, training_device
from sae_lightning.build.instantiate import make
from sae_lightning.build.kept import cached_harvesters, find_caches
from sae_lightning.build.layout import Layout
from sae_lightning.build.models import build_model, build_sites
from sae_lightning.build.recipe import lm_identity, recipe, text_identity
from sae_lightning.config import DataConfig, RunConfig
from sae_lightning.core import UserError
from sae_lightning.lm import FrozenLM, resume_site
from sae_lightning.tokens import EpochOrder, TokenStore, Windows, WindowSample, tokenized_store

logger = logging.getLogger(__name__)


def enough_tokens(config: RunConfig) -> int:
    """Return how much text a run can use: its budget, and enough held-out documents for every measurement.

    Rounded up to a power of two, a million at least: budgets that are alike then share a text, and what is kept of it.
    """
    measured = 2 * config.evaluation.final_tokens + config.evaluation.downstream_tokens
    needed = int(1.25 * max(config.tokens / config.data.share, measured / config.data.heldout_fraction))
    return max(1 << 20, 1 << (needed - 1).bit_length())


def build_store(config: DataConfig, lm: FrozenLM, enough: int) -> TokenStore:
    """Return the tokenised corpus: made once and kept in the cache, or the user's own token file.

    enough: how much of the text is tokenised under ``data.max_tokens=auto``.
    """
    if config.kind == "tokens":
        assert config.path is not None
        store = TokenStore.open(config.path, config.dtype, config.separator)
        store.check_vocab(lm.vocab_size)
        return store
    source = make(config.source or {}, "data.source")
    limit = enough if config.max_tokens == "auto" else config.max_tokens
    name = lm.identity()["tokenizer_hash"]
    assert name is not None
    return tokenized_store(source, lambda: lm.tokenizer, name, vocab_size=lm.vocab_size, max_tokens=limit)


def samples(config: RunConfig, lm: FrozenLM) -> tuple[WindowSample, WindowSample]:
    """Return the windows that a run of this budget trains on and those that it is measured on."""
    store = build_store(config.data, lm, enough_tokens(config))
    train, heldout = (split_windows(config.data, lm, store, split) for split in ("train", "heldout"))
    if train.n_tokens < config.data.batch_size:
        raise UserError(
            f"data: the training split has {train.n_tokens} tokens, fewer than one batch of "
            f"data.batch_size={config.data.batch_size}; give more text or lower data.batch_size"
        )
    wanted = config.data.batch_size * (1 if config.trainer.overfit_batch else config.total_steps)
    evaluation = config.evaluation
    # Measured on the even windows, calibrated on the odd ones.
    measured = 2 * max(
        windows_for(evaluation.final_tokens, heldout, config.data),
        math.ceil(evaluation.downstream_tokens / config.data.context_length),
    )
    return (
        WindowSample(train, windows_for(wanted / config.data.share, train, config.data)),
        WindowSample(heldout, measured),
    )


def windows_for(rows: float, windows: Windows, data: DataConfig) -> int:
    """Return how many windows hold about this many rows, some to spare for what the mask takes."""
    a_window = windows.n_tokens / len(windows) - data.mask_first_position
    return math.ceil(1.03 * rows / max(1.0, a_window)) + data.micro_batch


def split_windows(data: DataConfig, lm: FrozenLM, store: TokenStore, split: Any) -> Windows:
    """Return the windows of one split of a corpus."""
    if data.context_length > lm.n_ctx:
        raise UserError(
            f"data.context_length={data.context_length}: the language model reads at most {lm.n_ctx} tokens; lower it"
        )
    return Windows(
        store,
        split,
        context_length=data.context_length,
        packing=data.packing,
        separator_id=lm.separator_id,
        bos_id=lm.bos_id,
        prepend_bos=data.prepend_bos,
        heldout_fraction=data.heldout_fraction,
    )


def build_cache(config: RunConfig) -> list[ActivationCache]:
    """Keep what a run of this config would read, every site in one pass of the language model; return the caches."""
    assert config.lm is not None
    lm = build_model(config.lm, config.tuned, config.stream_seed)
    found = find_caches(config.data, lm, build_sites(config.sites, lm), samples(config, lm))
    return [cache for by_site in found for cache in by_site.values()]


def data_from_text(config: RunConfig, fitted: Fitted | None = None) -> Data:
    """Build what a run on text reads: kept activations where ``data.cache`` allows, else the language model."""
    assert config.lm is not None
    data = config.data
    lm = build_model(config.lm, config.tuned, config.stream_seed)
    sites = build_sites(config.sites, lm)
    train, heldout = samples(config, lm)
    policy = fitted.mask if fitted else MaskPolicy(lm.special_ids, data.mask_first_position, data.mask_norm_multiple)
    streamed = {w.split: Harvester(lm, sites, w, policy, data.micro_batch) for w in (train, heldout)}
    kept = cached_harvesters(config, list(streamed.values()), before=fitted and fitted.kept)
    harvesters: dict[str, Harvester] = dict(kept or streamed)
    layout = Layout(sites, streamed["train"].widths, streamed["train"].widths_out)
    sample, targets, stats, mask = None, None, fitted and fitted.stats, policy
    if fitted is None:
        found = calibrate(harvesters["train"], config.normalise.sample_tokens, config.stream_seed)
        mask, sample, targets, stats = found.mask, found.sample, found.y_sample, found.stats
    assert mask is not None
    assert stats is not None
    masked = {split: harvester.with_mask(mask) for split, harvester in harvesters.items()}
    return Data(
        source=_window_source(config, masked["train"])
        if config.objective.end_to_end
        else _source(config, masked["train"]),
        layout=layout,
        sample=sample,
        targets=targets,
        stats=stats,
        mask=mask,
        lm=lm,
        train_windows=train,
        heldout=masked["heldout"],
        downstream=None if data.cache == "only" else streamed["heldout"].with_mask(mask),
        cache=describe_kept(kept) if kept else None,
        metadata={
            "sites": layout.to_metadata(),
            "lm": lm_identity(lm),
            "mask": mask.to_dict(),
            "data": {
                "windows": train.identity(),
                "text": text_identity(data, train.store),
                "heldout_fraction": data.heldout_fraction,
                "context_length": data.context_length,
            },
            "recipe": recipe(config),
        },
    )


def _source(config: RunConfig, harvester: Harvester) -> StreamSource | CachedSource:
    data, seed = config.data, config.stream_seed
    options: dict[str, Any] = {
        "batch_size": data.batch_size,
        "buffer_tokens": data.buffer_tokens,
        "mix": data.mix,
        "seed": seed,
        "budget": config.total_steps * data.batch_size,
        "share": data.share,
        "share_seed": seed,
    }
    order = EpochOrder(len(harvester.windows), seed)
    if isinstance(harvester, CachedHarvester):
        return CachedSource(harvester, order, **options)
    # A language model with a device of its own works while the SAE trains.
    return StreamSource(harvester, order, ahead=apart(harvester.device, training_device(config)), **options)


def _window_source(config: RunConfig, harvester: Harvester) -> WindowSource:
    """Return the source of an objective through the model: whole windows, and where a run of the rest begins."""
    order = EpochOrder(len(harvester.windows), config.stream_seed)
    start = resume_site(harvester.sites.write)
    return WindowSource(harvester, order, batch_size=config.data.batch_size, start=start, ranks=row_ranks(config))


def describe_kept(kept: dict[str, CachedHarvester]) -> str:
    """Return in words which kept activations a run reads."""
    rows = ", ".join(f"{len(h.windows):,} {split} windows" for split, h in kept.items())
    addresses = sorted({cache.folder.name for h in kept.values() for cache in h.caches.values()})
    return f"the cache ({rows}; {', '.join(addresses)})"
