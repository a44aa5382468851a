"""From an SAE's path to what studies ask about: the SAE, its held-out data, its language model."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_lightning.activations import FileSource, Harvester
from sae_lightning.build.device import pick_device
from sae_lightning.build.lm_check import check_width, differences
from sae_lightning.build.origin import Origin, origin_of
from sae_lightning.build.recipe import text_identity
from sae_lightning.config import DataConfig, EvaluateConfig
from sae_lightning.core import UserError
from sae_lightning.sae import SparseAutoencoder, formats
from sae_lightning.studies import Subject

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """A subject and what evaluation.json says of it."""

    subject: Subject
    facts: dict[str, Any]


def build_subject(config: EvaluateConfig, path: str, device: str | None = None) -> Evaluated:
    """Load an SAE and find its held-out data. Raises UserError for whatever does not fit together.

    device: in place of ``config.device``, for a process that has its own.
    """
    device = pick_device(device or config.device)
    sae = formats.read(path).to(torch.device(device))
    origin = origin_of(config, path, sae)
    facts = {
        "path": Path(path).expanduser().resolve().name,
        "sae": describe_sae(sae),
        "source": sae.metadata.get("source"),
    }
    if origin.data.kind == "activations":
        subject, more = _from_file(config, sae, origin)
    elif origin.data.kind == "synthetic":
        subject, more = _synthetic(config, sae, origin)
    else:
        subject, more = _from_text(config, sae, origin, path, device)
    return Evaluated(subject, {**facts, **more})


def describe_sae(sae: SparseAutoencoder) -> dict[str, Any]:
    """Return what an SAE is, in plain values."""
    return {
        "architecture": sae.name,
        "d_in": sae.d_in,
        "d_out": sae.d_out,
        "d_sae": sae.d_sae,
        "k": sae.nominal_l0,
        "parameters": sae.n_parameters,
    }


def _from_file(config: EvaluateConfig, sae: SparseAutoencoder, origin: Origin) -> tuple[Subject, dict[str, Any]]:
    from sae_lightning.build.data import between, file_split

    data = origin.data
    if data.targets is None:
        _check_no_targets(sae, "a file of activations")
    assert data.path is not None
    said = sae.metadata.get("data") or {}
    if origin.own_data or data.heldout or said.get("identity") == FileSource(data.path, 1).file.identity():
        heldout, part = file_split(data, 0)[1], "held-out rows"
        rows = between(heldout, 0, min(config.tokens, -(-heldout.n // 2)))
    else:
        heldout, part = FileSource(data.path, 1, targets=data.targets), "all rows"
        rows = between(heldout, 0, config.tokens)
    check_width(sae, rows.x.shape[1], rows.y.shape[1], Path(data.path).name)
    told = {"source": Path(data.path).name, "split": part, "rows": len(rows), "context_length": None}
    return Subject(sae, rows=rows), {"lm": None, "sites": None, "mask": None, "data": told}


def _synthetic(config: EvaluateConfig, sae: SparseAutoencoder, origin: Origin) -> tuple[Subject, dict[str, Any]]:
    from sae_lightning.activations.synthetic import planted_model
    from sae_lightning.build.synthetic import build_planted, planted_layout

    _check_no_targets(sae, "synthetic data")
    said = origin.data.synthetic or {}
    # An export carries the model's parameters; a run's config, the class that takes them.
    model = build_planted(origin.data) if "_target_" in said else planted_model(said)
    check_width(sae, model.hidden_dim, model.hidden_dim, "the synthetic data")
    blocks = range(max(2, math.ceil(config.tokens / model.block_rows)))
    told = {"source": "synthetic", "split": "held-out stream", "windows": len(blocks), "synthetic": model.parameters()}
    sites = planted_layout(model).to_metadata()
    return Subject(sae, windows=blocks, truth=model), {"lm": None, "sites": sites, "mask": None, "data": told}


def _from_text(
    config: EvaluateConfig, sae: SparseAutoencoder, origin: Origin, path: str, device: str
) -> tuple[Subject, dict[str, Any]]:
    from sae_lightning.build.corpus import mask_of, open_corpus
    from sae_lightning.build.text import split_windows
    from sae_lightning.tokens import WindowSample

    data = origin.data
    corpus = open_corpus(config, sae, origin, path, device, int(2.5 * config.tokens / data.heldout_fraction))
    _check_heldout(sae.metadata.get("data") or {}, data, text_identity(data, corpus.tokens), path)
    heldout = split_windows(data, corpus.lm, corpus.tokens, "heldout")
    # The even windows of the sample: those that training measures on too. The odd ones set thresholds there.
    sample = WindowSample(heldout, 2 * math.ceil(config.tokens / data.context_length))
    numbers = range(0, len(sample), 2)
    mask, mask_from = mask_of(sae, corpus, origin, sample, config.tokens, config.seed)
    if mask_from != "the SAE":
        logger.info("mask: the SAE brings none; first positions, special tokens and outlier norms are left out")
    told = {
        "source": source_name(data),
        "split": "heldout",
        "heldout_fraction": data.heldout_fraction,
        "context_length": data.context_length,
        "windows": len(numbers),
        "identity": sample.identity(),
        "trained_on": "the training split of this text" if origin.own_data and sae.metadata.get("data") else None,
    }
    mind = differences(sae, corpus.identity, origin)
    for line in mind:
        logger.warning("%s", line)
    facts = {
        "lm": {**corpus.identity, "dtype": corpus.models[0].dtype},
        "sites": {"read": list(corpus.sites.read), "write": list(corpus.sites.write)},
        "mask": {**mask.to_dict(), "from": mask_from},
        "data": told,
        "mind": mind,
    }
    harvester = Harvester(corpus.lm, corpus.sites, sample, mask, data.micro_batch)
    return Subject(sae, lm=corpus.lm, harvester=harvester, windows=numbers), facts


def _check_no_targets(sae: SparseAutoencoder, what: str) -> None:
    sites = sae.metadata.get("sites") or {}
    if sites.get("read") != sites.get("write"):
        raise UserError(
            f"{what}: has no targets, and this SAE writes {', '.join(sites['write'])} from {', '.join(sites['read'])}; "
            "evaluate it on text (lm=... data=...)"
        )


def _check_heldout(said: dict[str, Any], data: DataConfig, text: str, path: str) -> None:
    trained = said.get("heldout_fraction")
    if said.get("text") == text and isinstance(trained, float) and data.heldout_fraction > trained:
        raise UserError(
            f"data.heldout_fraction={data.heldout_fraction}: sae={path} was trained on some of these documents (held "
            f"out {trained}); use at most {trained}"
        )


def source_name(data: DataConfig) -> str:
    """Return what a text is called: its kind and the last part of its path or name."""
    if data.source is not None:
        name = str(data.source.get("name") or data.source.get("path") or "")
        kind = str(data.source["_target_"]).rsplit(".", 1)[-1].removesuffix("Source").lower()
        return f"{kind} {Path(name).name}".strip()
    return Path(data.path or "").name
