"""From config to a feature store: the text, the language model, the SAE, and what the store says of them."""

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sae_lightning.activations import Harvester
from sae_lightning.build.corpus import OpenCorpus, mask_of, open_corpus
from sae_lightning.build.device import pick_device
from sae_lightning.build.instantiate import make
from sae_lightning.build.lm_check import differences
from sae_lightning.build.names import sae_name
from sae_lightning.build.origin import Origin, origin_of
from sae_lightning.build.recipe import text_identity
from sae_lightning.build.subject import describe_sae, source_name
from sae_lightning.build.text import split_windows
from sae_lightning.config import (
    DataConfig,
    IndexConfig,
    LMConfig,
    absolute_model,
    with_absolute_data,
    with_absolute_name,
)
from sae_lightning.core import Features, TokenBatch, UserError
from sae_lightning.core.processor import fast_bfloat16
from sae_lightning.sae import SparseAutoencoder, formats
from sae_lightning.sae.proven import ProvenEncoder
from sae_lightning.store import Corpus, FeatureStore, Plan, build_store, sae_sha256
from sae_lightning.studies.subject import inference
from sae_lightning.tokens import Document

logger = logging.getLogger(__name__)


def index(config: IndexConfig) -> FeatureStore:
    """Build the store that a config describes, or go on with one that was begun. Raises UserError."""
    plan = build_plan(config)
    return build_store(config.store, plan, overwrite=config.overwrite, show=config.progress)


def build_plan(config: IndexConfig) -> Plan:
    """Open everything that a store is made of and check that it fits together."""
    device = pick_device(config.device)
    sae = formats.read(config.sae).to(torch.device(device)).eval()
    origin = origin_of(config, config.sae, sae)
    data = origin.data
    if data.kind in ("activations", "synthetic"):
        raise UserError(
            f"sae={config.sae}: was trained on {data.kind}, which have no text to look features up in; give lm=... "
            "sites.read=[...] data=..."
        )
    share = {"all": 1.0, "train": 1 - data.heldout_fraction, "heldout": data.heldout_fraction}[config.split]
    corpus = open_corpus(config, sae, origin, config.sae, device, int(1.1 * config.tokens / share))
    windows = split_windows(data, corpus.lm, corpus.tokens, config.split)
    n_windows = min(len(windows), math.ceil(config.tokens / data.context_length))
    if n_windows * data.context_length < config.tokens:
        logger.info("tokens=%s: the text has %s windows of %s", f"{config.tokens:,}", n_windows, data.context_length)
    mask, mask_from = mask_of(sae, corpus, origin, windows, config.tokens, 0)
    if mask_from != "the SAE":
        logger.info("mask: the SAE brings none; first positions, special tokens and outlier norms are left out")
    harvester = Harvester(corpus.lm, corpus.sites, windows, mask, data.micro_batch)
    sha256 = sae_sha256(sae)
    facts = {
        "sae": {
            "name": sae_name(config.sae),
            "path": str(Path(config.sae).expanduser().resolve()),
            "sha256": sha256,
            **describe_sae(sae),
        },
        "lm": {
            **corpus.identity,
            "dtype": corpus.models[0].dtype,
            "load": [_load_arguments(one, corpus.seed) for one in corpus.models],
        },
        "sites": {"read": list(corpus.sites.read), "write": list(corpus.sites.write)},
        "mask": mask.to_dict(),
        "mask_from": mask_from,
        "data": _described(config, data, windows.identity(), n_windows),
        "mind": differences(sae, corpus.identity, origin),
        "settings": _settings(origin, corpus),
        "given": _given(config),
    }
    for line in facts["mind"]:
        logger.warning("%s", line)
    texts = text_identity(data, corpus.tokens)
    key = {"sae": sha256, **harvester.description(), "lm": corpus.identity, "texts": texts, "n_windows": n_windows}
    return Plan(
        corpus=Corpus(windows, n_windows, lambda: corpus.lm.tokenizer, _documents(data)),
        encode=partial(_encode, harvester, sae, _encoder(sae)),
        d_sae=sae.d_sae,
        vocab_size=corpus.lm.vocab_size,
        unit=data.micro_batch,
        key=key,
        facts=facts,
    )


def _encoder(sae: SparseAutoencoder) -> Callable[[torch.Tensor], Features]:
    """Return what gives the features of raw rows: on a CPU that multiplies bfloat16, at half the price where it can."""
    return ProvenEncoder(sae).encode if fast_bfloat16() else sae.encode


def _encode(
    harvester: Harvester, sae: SparseAutoencoder, encode: Callable[[torch.Tensor], Features], numbers: list[int]
) -> tuple[TokenBatch, torch.Tensor, Features]:
    batch, x, keep = harvester.full(numbers)
    with inference(sae):
        return batch, keep, encode(x[keep].to(sae.W_dec.device, torch.float32))


def _documents(data: DataConfig) -> Any:
    """Return what gives the texts behind a token file anew; None where it came without them."""
    if data.kind == "tokens":
        return None

    def documents() -> Iterator[Document]:
        return make(data.source or {}, "data.source").documents()

    return documents


def _described(config: IndexConfig, data: DataConfig, identity: str, n_windows: int) -> dict[str, Any]:
    return {
        "source": source_name(data),
        "split": config.split,
        "heldout_fraction": data.heldout_fraction,
        "context_length": data.context_length,
        "packing": data.packing,
        "prepend_bos": data.prepend_bos,
        "micro_batch": data.micro_batch,
        "windows": n_windows,
        "identity": identity,
    }


def _settings(origin: Origin, corpus: OpenCorpus) -> dict[str, Any]:
    """Return the settings with which the same text and language model are opened again on this machine."""
    models = [with_absolute_name(one).model_dump(mode="json", exclude={"device"}) for one in corpus.models]
    data = with_absolute_data(origin.data).model_dump(mode="json")
    tuned = models[1] if len(models) > 1 else None
    return {"lm": models[0], "tuned": tuned, "data": data, "seed": corpus.seed, "enough": corpus.enough}


def _given(config: IndexConfig) -> dict[str, Any]:
    """Return what the user said of language model, data and sites in place of what the SAE says."""
    data = config.data and with_absolute_data(config.data)
    tuned = config.sites.tuned.model_copy(update={"name": absolute_model(config.sites.tuned.name)})
    sites = config.sites.model_copy(update={"tuned": tuned})
    own = config.model_copy(update={"lm": config.lm and with_absolute_name(config.lm), "data": data, "sites": sites})
    said = own.model_dump(mode="json", include={"lm", "data", "sites", "any_lm"})
    return {key: value for key, value in said.items() if value is not None}


def _load_arguments(lm: LMConfig, seed: int) -> dict[str, Any]:
    """Return the arguments of ``LazyLM`` for a model; of a local folder its absolute path."""
    name = absolute_model(lm.name)
    spread = {} if lm.device_map is None else {"device_map": lm.device_map}
    return {"name": name, "dtype": lm.dtype, "revision": lm.revision, "seed": seed, **spread, **lm.options}
