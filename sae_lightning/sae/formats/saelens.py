"""SAELens 6: ``cfg.json``, ``sae_weights.safetensors`` and, where activations are at hand, ``sparsity.safetensors``."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_lightning.core import UserError, write_json
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.formats import provenance
from sae_lightning.sae.formats.algebra import log_theta, plain, thresholds
from sae_lightning.sae.formats.base import Format, is_transcoder, one_site
from sae_lightning.sae.formats.files import (
    Weights,
    assemble,
    flag,
    peek_json,
    positive_integer,
    read_json,
    section,
    write_tensors,
)

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
# The version whose files these are: its loader, and those since 6.0, take them as they stand.
VERSION = "6.54.12"
_SELECTIONS = {"topk": "topk", "abstopk": "abs_topk"}
_TRANSCODERS = {
    ("standard", False): "transcoder",
    ("standard", True): "skip_transcoder",
    ("jumprelu", False): "jumprelu_transcoder",
    ("jumprelu", True): "jumprelu_skip_transcoder",
}
_OURS = {name: name for name in ("standard", "jumprelu", "gated")} | dict.fromkeys(_SELECTIONS, "topk")
_OURS |= {theirs: ours for (ours, _), theirs in _TRANSCODERS.items()}
_SAVE = "write it with its save_inference_model()"


class SAELensFormat(Format):
    """W_enc, b_enc, W_dec, b_dec in our shapes; W_skip [d_out, d_in]; threshold [d_sae], ``z > t``.

    Equal by algebra: batch top-k and Matryoshka with a set threshold are ``jumprelu``; rescaling by decoder norms goes
    into the encoder; a transcoder's b_dec, which SAELens never subtracts, goes into b_enc. gated: b_gate is our b_enc.
    Not held: layer norm (theirs divides by the unbiased deviation + 1e-5), a LeakyReLU, GroupMax, transcoders that are
    not ReLU or JumpReLU, several sites.
    """

    name = "saelens"
    files = f"{CONFIG} and {WEIGHTS}"
    patterns = (CONFIG, WEIGHTS, SPARSITY)

    def recognise(self, path: Path) -> bool:
        return (path / WEIGHTS).exists() or not {"d_sae", "architecture"}.isdisjoint(peek_json(path / CONFIG))

    def how_to_load(self, folder: str) -> str:
        return (
            f"from sae_lens import SAE\n\nsae = SAE.load_from_disk({folder})\n"
            "features = sae.encode(rows)\nreconstruction = sae(rows)"
        )

    # Reading

    def read(self, path: Path) -> SparseAutoencoder:
        file = path / CONFIG
        config = read_json(file)
        meta = section(config, "metadata", file) or config
        version = meta.get("sae_lens_version") or config.get("sae_lens_version")
        theirs, options = self._architecture(config, file, old=version is None or _major(version, file) < 6)
        weights = Weights.of_safetensors(path / WEIGHTS)
        try:
            sae = assemble(_OURS[theirs], options, _read_tensors(theirs, options, weights))
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        hook = meta.get("hook_name") or meta.get("hook_point")
        stated = {
            "sites": provenance.sites(hook, meta.get("hook_name_out")),
            "lm": provenance.language_model(meta.get("model_name")),
            "data": provenance.data(meta.get("context_size"), meta.get("dataset_path")),
        }
        stamped = meta.get(provenance.KEY)
        sae.metadata = provenance.metadata(self.name, version, stated, stamped, path / WEIGHTS)
        return sae

    def _architecture(self, config: dict[str, Any], file: Path, old: bool) -> tuple[str, dict[str, Any]]:
        """Return their architecture and our options; UserError for what can't be read exactly."""
        theirs = config.get("architecture", "standard" if old else None)
        function = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
        if old and theirs == "standard" and function == "topk":
            theirs, config = "topk", {**section(config, "activation_fn_kwargs", file), **config}
        elif old and function != "relu":
            raise UserError(f"{file}: activation_fn={function!r} can't be read; known are relu and topk")
        if theirs in ("batchtopk", "matryoshka_batchtopk"):
            raise UserError(f"{file}: architecture {theirs!r} is a training checkpoint of SAELens; {_SAVE}")
        if not isinstance(theirs, str) or theirs not in _OURS:
            raise UserError(
                f"{file}: architecture is {theirs!r}, and can be one of {', '.join(_OURS)}; get such a file"
            )
        normalisation = config.get("normalize_activations")
        if normalisation not in (None, False, "none"):
            raise UserError(
                f"{file}: normalize_activations={normalisation!r} is no part of the weights and differs from ours; "
                "fold it in with SAELens and save again"
            )
        if config.get("finetuning_scaling_factor") not in (None, False):
            raise UserError(f"{file}: finetuning_scaling_factor scales features outside the weights; fold it in first")
        crosses = "transcoder" in theirs
        subtract = flag(config, "apply_b_dec_to_input", not crosses, file)
        if crosses and subtract:
            raise UserError(
                f"{file}: apply_b_dec_to_input=true contradicts architecture {theirs!r}; get the file again"
            )
        options = {name: positive_integer(config, name, file) for name in ("d_in", "d_sae")}
        options["d_out"] = positive_integer(config, "d_out", file) if crosses else options["d_in"]
        options |= {"subtract_b_dec": subtract, "skip": "skip" in theirs}
        if theirs in _SELECTIONS:
            options |= {"k": positive_integer(config, "k", file), "selection": _SELECTIONS[theirs]}
            options["rescale_acts_by_decoder_norm"] = flag(config, "rescale_acts_by_decoder_norm", False, file)
        return theirs, options

    # Writing

    def write(self, sae: SparseAutoencoder, folder: Path, rows: Tensor | None = None) -> None:
        one_site(self, sae)
        theirs = self._their_architecture(sae)
        crosses = "transcoder" in theirs
        same = plain(sae, subtract_b_dec=False if crosses else None)
        tensors: dict[str, Tensor] = {name: getattr(same, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        if theirs == "gated":
            tensors |= {"b_gate": tensors.pop("b_enc"), "b_mag": same.get_parameter("b_mag")}
            tensors["r_mag"] = same.get_parameter("r_mag")
        if (cut := thresholds(sae)) is not None:
            tensors["threshold"] = cut
        if same.W_skip is not None:
            tensors["W_skip"] = same.W_skip.T
        write_tensors(folder / WEIGHTS, tensors)
        config: dict[str, Any] = {"architecture": theirs, "d_in": sae.d_in, "d_sae": sae.d_sae}
        config |= {"dtype": "float32", "device": "cpu", "apply_b_dec_to_input": same.subtract_b_dec}
        config |= {"normalize_activations": "none", "reshape_activations": "none"}
        if crosses:
            config["d_out"] = sae.d_out
        if theirs in _SELECTIONS:
            config |= {"k": sae.options()["k"], "rescale_acts_by_decoder_norm": False}
        config["metadata"] = meta = _their_metadata(sae)
        if str(meta["hook_name"]).endswith("hook_z") and not crosses:
            config["reshape_activations"] = "hook_z"
        meta[provenance.KEY] = provenance.stamp(sae, folder / WEIGHTS)
        write_json(folder / CONFIG, config)
        if rows is not None:
            with torch.no_grad():
                share = sae.encode(rows).counts().double() / len(rows)
            write_tensors(folder / SPARSITY, {"sparsity": (share + 1e-10).log10().float()})

    def _their_architecture(self, sae: SparseAutoencoder) -> str:
        options = sae.options()
        if sae.layer_norm:
            raise self.refuse(
                "this SAE layer-normalises its input by sqrt(var + 1e-5), SAELens by the unbiased deviation + 1e-5",
                "train with another normalise= to export",
            )
        if options.get("negative_slope"):
            raise self.refuse(f"SAELens has no LeakyReLU (negative_slope={options['negative_slope']})")
        if isinstance(sae, BatchTopKSAE):
            if not bool(sae.threshold_set):
                raise self.refuse("this batch top-k SAE has no inference threshold yet", "calibrate_threshold first")
            theirs = "jumprelu"
        elif sae.name == "topk":
            kinds = {ours: theirs for theirs, ours in _SELECTIONS.items()}
            if options["selection"] not in kinds:
                raise self.refuse(f"SAELens has no selection {options['selection']}", "sparsify has GroupMax")
            theirs = kinds[options["selection"]]
        elif sae.name in ("standard", "jumprelu", "gated"):
            theirs = sae.name
        else:
            raise self.refuse(f"SAELens has nothing like architecture {sae.name!r}")
        if is_transcoder(sae):
            if (theirs, sae.skip) not in _TRANSCODERS:
                raise self.refuse(f"SAELens has transcoders with ReLU and JumpReLU only, and this one is {sae.name}")
            theirs = _TRANSCODERS[theirs, sae.skip]
        return theirs


def _major(version: Any, file: Path) -> int:
    """Return the first number of a version."""
    found = re.match(r"v?(\d{1,9})(?!\d)", version) if isinstance(version, str) else None
    if not found:
        raise UserError(f"{file}: sae_lens_version is {version!r}, but must be a version like {VERSION}; get it again")
    return int(found[1])


def _their_metadata(sae: SparseAutoencoder) -> dict[str, Any]:
    lm, sites, mask = (sae.metadata.get(name) or {} for name in ("lm", "sites", "mask"))
    data = sae.metadata.get("data") or {}
    read, write = ((sites.get(side) or [None])[0] for side in ("read", "write"))
    meta = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": provenance.without_paths(lm.get("name")),
        "hook_name": read,
        "hook_head_index": None,
        "context_size": data.get("context_length"),
        "dataset_path": provenance.without_paths(data.get("dataset")),
        "exclude_special_tokens": mask.get("special_ids"),
    }
    return meta | {"hook_name_out": write} if is_transcoder(sae) else meta


def _read_tensors(theirs: str, options: dict[str, Any], weights: Weights) -> dict[str, Tensor]:
    d_in, d_sae, d_out = (options[name] for name in ("d_in", "d_sae", "d_out"))
    tensors = {"W_enc": weights.take("W_enc", d_in, d_sae), "W_dec": weights.take("W_dec", d_sae, d_out)}
    tensors["b_dec"] = weights.take("b_dec", d_out)
    tensors["b_enc"] = weights.take("b_gate" if theirs == "gated" else "b_enc", d_sae)
    if theirs == "gated":
        tensors |= {name: weights.take(name, d_sae) for name in ("b_mag", "r_mag")}
    if "jumprelu" in theirs:
        tensors["log_theta"] = log_theta(weights.take("threshold", d_sae, exact=True))
    if options["skip"]:
        tensors["W_skip"] = weights.take("W_skip", d_out, d_in).T
    if "scaling_factor" in weights and not (weights.take("scaling_factor", d_sae) == 1).all():
        raise UserError(f"{weights.file}: scaling_factor scales features outside the weights; fold it in first")
    weights.finish()
    return tensors
