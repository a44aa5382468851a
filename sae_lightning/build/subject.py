"""From an SAE's path to what studies ask about: the SAE, its held-out data, its language model."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_lightning.activations import FileSource, Harvester, MaskPolicy, calibrate
from sae_lightning.build.device import pick_device
from sae_lightning.build.origin import Origin, origin_of
from sae_lightning.build.recipe import lm_identity, text_identity
from sae_lightning.config import DataConfig, EvaluateConfig
from sae_lightning.core import Sites, UserError
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
    _check_width(sae, rows.x.shape[1], rows.y.shape[1], Path(data.path).name)
    told = {"source": Path(data.path).name, "split": part, "rows": len(rows), "context_length": None}
    return Subject(sae, rows=rows), {"lm": None, "sites": None, "mask": None, "data": told}


def _synthetic(config: EvaluateConfig, sae: SparseAutoencoder, origin: Origin) -> tuple[Subject, dict[str, Any]]:
    from sae_lightning.activations.synthetic import planted_model
    from sae_lightning.build.synthetic import build_planted, planted_layout

    _check_no_targets(sae, "synthetic data")
    said = origin.data.synthetic or {}
    # An export carries the model's parameters; a run's config, the class that takes them.
    model = build_planted(origin.data) if "_target_" in said else planted_model(said)
    _check_width(sae, model.hidden_dim, model.hidden_dim, "the synthetic data")
    blocks = range(max(2, math.ceil(config.tokens / model.block_rows)))
    told = {"source": "synthetic", "split": "held-out stream", "windows": len(blocks), "synthetic": model.parameters()}
    sites = planted_layout(model).to_metadata()
    return Subject(sae, windows=blocks, truth=model), {"lm": None, "sites": sites, "mask": None, "data": told}


def _from_text(
    config: EvaluateConfig, sae: SparseAutoencoder, origin: Origin, path: str, device: str
) -> tuple[Subject, dict[str, Any]]:
    from sae_lightning.build.models import build_model
    from sae_lightning.build.text import build_store, enough_tokens, split_windows
    from sae_lightning.tokens import WindowSample

    data, run = origin.data, origin.run
    assert origin.lm is not None
    assert origin.read is not None
    assert origin.write is not None
    lm, tuned = (one and one.model_copy(update={"device": device}) for one in (origin.lm, origin.tuned))
    assert lm is not None
    lm = build_model(lm, tuned, run.stream_seed if run is not None else 0)
    for site in (*origin.read, *origin.write):
        lm.check_site(site)
    identity = lm_identity(lm)
    if not config.any_lm:
        check_lm(sae.metadata.get("lm"), identity, path)
    where = f"{', '.join(origin.read)} of {identity['name']}"
    widths = [sum(lm.site_width(site) for site in sites) for sites in (origin.read, origin.write)]
    _check_width(sae, widths[0], widths[1], where)
    enough = enough_tokens(run) if run is not None and origin.own_data else 0
    wanted = int(2.5 * config.tokens / data.heldout_fraction)
    store = build_store(data, lm, max(enough, 1 << 20, 1 << (wanted - 1).bit_length()))
    _check_heldout(sae.metadata.get("data") or {}, data, text_identity(data, store), path)
    heldout = split_windows(data, lm, store, "heldout")
    # The even windows of the sample: those that training measures on too. The odd ones set thresholds there.
    sample = WindowSample(heldout, 2 * math.ceil(config.tokens / data.context_length))
    numbers = range(0, len(sample), 2)
    sites = Sites(origin.read, origin.write)
    saved = sae.metadata.get("mask")
    if saved:
        mask, mask_from = MaskPolicy.from_dict(saved), "the SAE"
    else:
        policy = MaskPolicy(lm.special_ids, data.mask_first_position, data.mask_norm_multiple)
        harvester = Harvester(lm, sites, sample, policy, data.micro_batch)
        mask, mask_from = calibrate(harvester, min(config.tokens, 16384), config.seed).mask, "fitted here"
        logger.info("mask: the SAE brings none; first positions, special tokens and outlier norms are left out")
    told = {
        "source": _source_name(data),
        "split": "heldout",
        "heldout_fraction": data.heldout_fraction,
        "context_length": data.context_length,
        "windows": len(numbers),
        "identity": sample.identity(),
        "trained_on": "the training split of this text" if origin.own_data and sae.metadata.get("data") else None,
    }
    mind = _differences(sae, identity, origin)
    for line in mind:
        logger.warning("%s", line)
    facts = {
        "lm": {**identity, "dtype": origin.lm.dtype},
        "sites": {"read": list(origin.read), "write": list(origin.write)},
        "mask": {**mask.to_dict(), "from": mask_from},
        "data": told,
        "mind": mind,
    }
    harvester = Harvester(lm, sites, sample, mask, data.micro_batch)
    return Subject(sae, lm=lm, harvester=harvester, windows=numbers), facts


def check_lm(
    trained: dict[str, Any] | None,
    here: dict[str, Any],
    path: str,
    key: str = "sae",
    remedy: str = "give lm=... with the one it was trained on, or any_lm=true to measure it all the same",
) -> None:
    """Raise UserError unless an SAE was trained on this language model, as far as it says. key: what names its path."""
    if not trained:
        return
    if trained.get("tuned") and here.get("tuned"):
        check_lm(trained["tuned"], here["tuned"], path, key, remedy.replace("give lm=", "give sites.tuned.name="))
    if trained.get("sha256") and here["sha256"]:
        if trained["sha256"] != here["sha256"]:
            raise UserError(
                f"lm={here['name']}: {key}={path} was trained on {trained.get('name')}, whose weights are others "
                f"(SHA-256 {str(trained['sha256'])[:12]}, not {str(here['sha256'])[:12]}); {remedy}"
            )
    elif trained.get("name") and _short(str(trained["name"])) != _short(str(here["name"])):
        raise UserError(f"lm={here['name']}: {key}={path} was trained on {trained['name']}; {remedy}")


def _differences(sae: SparseAutoencoder, here: dict[str, Any], origin: Origin) -> list[str]:
    """Return in words where an SAE is not measured as it was trained."""
    found = []
    said, sites = sae.metadata.get("lm") or {}, sae.metadata.get("sites") or {}
    for lm, used in ((said, here), (said.get("tuned") or {}, here.get("tuned") or {})):
        if lm.get("sha256") and lm["sha256"] != used.get("sha256"):
            found.append(
                f"trained on {lm.get('name')} (other weights, SHA-256 {str(lm['sha256'])[:12]}) than {used.get('name')}"
            )
        elif lm.get("name") and _short(str(lm["name"])) != _short(str(used.get("name"))):
            found.append(f"trained on {lm['name']}, measured on {used.get('name')}")
    for key, used in (("read", origin.read), ("write", origin.write)):
        if sites.get(key) and list(sites[key]) != list(used or ()):
            found.append(f"trained to {key} {', '.join(sites[key])}, measured at {', '.join(used or ())}")
    return found


def _short(name: str) -> str:
    """Return a model's name without its owner and spelling: gpt2-small, openai-community/gpt2 and gpt2 are one."""
    return name.rsplit("/", 1)[-1].lower().replace("_", "-").removesuffix("-small")


def _check_no_targets(sae: SparseAutoencoder, what: str) -> None:
    sites = sae.metadata.get("sites") or {}
    if sites.get("read") != sites.get("write"):
        raise UserError(
            f"{what}: has no targets, and this SAE writes {', '.join(sites['write'])} from {', '.join(sites['read'])}; "
            "evaluate it on text (lm=... data=...)"
        )


def _check_width(sae: SparseAutoencoder, d_in: int, d_out: int, where: str) -> None:
    if (sae.d_in, sae.d_out) != (d_in, d_out):
        raise UserError(
            f"this SAE reads rows of width {sae.d_in} and writes {sae.d_out}, but {where} has {d_in} and {d_out}; give "
            "the site and language model it was trained on (sites.read=[...] lm=...)"
        )


def _check_heldout(said: dict[str, Any], data: DataConfig, text: str, path: str) -> None:
    trained = said.get("heldout_fraction")
    if said.get("text") == text and isinstance(trained, float) and data.heldout_fraction > trained:
        raise UserError(
            f"data.heldout_fraction={data.heldout_fraction}: sae={path} was trained on some of these documents (held "
            f"out {trained}); use at most {trained}"
        )


def _source_name(data: DataConfig) -> str:
    if data.source is not None:
        name = str(data.source.get("name") or data.source.get("path") or "")
        kind = str(data.source["_target_"]).rsplit(".", 1)[-1].removesuffix("Source").lower()
        return f"{kind} {Path(name).name}".strip()
    return Path(data.path or "").name
