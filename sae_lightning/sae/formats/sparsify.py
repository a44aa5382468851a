"""sparsify: ``cfg.json`` and ``sae.safetensors`` with ``encoder.weight`` and ``W_dec``, both [F, d]."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_lightning.core import UserError, write_json
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.formats import provenance
from sae_lightning.sae.formats.algebra import plain
from sae_lightning.sae.formats.base import Format, is_transcoder, one_site
from sae_lightning.sae.formats.files import (
    Weights,
    assemble,
    flag,
    peek_json,
    positive_integer,
    read_json,
    write_tensors,
)
from sae_lightning.sae.formats.hooks import module_of, sites_of_module

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
VERSION = "1.3.3"
_SELECTIONS = {"topk": "topk", "groupmax": "group_max"}


class SparsifyFormat(Format):
    """``f = TopK_k(ReLU(W x + b))`` or the largest of each of k groups; ``y = f W_dec + b_dec (+ W_skip x)``.

    encoder.weight [d_sae, d], encoder.bias, W_dec [d_sae, d], b_dec, W_skip [d, d] (out, in). x is ``x - b_dec`` unless
    ``transcode``; the skip path reads the raw x in either case. ReLU before or after top-k gives the same features.
    Equal by algebra: rescaling by decoder norms, and a b_dec subtracted here and not there.
    Not held: what is not top-k or GroupMax, signs (AbsTopK), layer norm, d_in != d_out, several sites.
    """

    name = "sparsify"
    files = f"{CONFIG} and {WEIGHTS}"
    patterns = (CONFIG, WEIGHTS)

    def recognise(self, path: Path) -> bool:
        config = peek_json(path / CONFIG)
        if {"num_latents", "expansion_factor"} & config.keys() and "architecture" not in config:
            return True
        return (path / WEIGHTS).exists() and (path / CONFIG).exists()

    def how_to_load(self, folder: str) -> str:
        return (
            f"from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_disk({folder})\n"
            "top_acts, top_indices, _ = sae.encode(rows)\nreconstruction = sae(rows).sae_out"
        )

    def read(self, path: Path) -> SparseAutoencoder:
        file = path / CONFIG
        config = read_json(file)
        d_in, d_sae = positive_integer(config, "d_in", file), _width(config, file)
        k, activation = positive_integer(config, "k", file), config.get("activation", "topk")
        known = isinstance(activation, str) and activation in _SELECTIONS
        if not known or flag(config, "signed", False, file):
            what = "signed=true" if known else f"activation={activation!r}"
            raise UserError(f"{file}: {what} can't be read; known are {', '.join(_SELECTIONS)}, unsigned")
        transcode, skip = (flag(config, key, False, file) for key in ("transcode", "skip_connection"))
        weights = Weights.of_safetensors(path / WEIGHTS)
        tensors = {
            "W_enc": weights.take("encoder.weight", d_sae, d_in).T,
            "b_enc": weights.take("encoder.bias", d_sae),
            "W_dec": weights.take("W_dec", d_sae, d_in),
            "b_dec": weights.take("b_dec", d_in),
        }
        if skip:
            tensors["W_skip"] = weights.take("W_skip", d_in, d_in).T
        weights.finish()
        if skip and not transcode:
            # Their skip path reads x where the encoder reads x - b_dec, ours reads the same twice: b_dec goes to b_enc.
            shift = tensors["b_dec"].double() @ tensors["W_enc"].double()
            tensors["b_enc"] = (tensors["b_enc"].double() - shift).float()
        options: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "k": k, "selection": _SELECTIONS[activation]}
        options |= {"subtract_b_dec": not transcode and not skip, "skip": skip}
        options["unit_norm_decoder"] = flag(config, "normalize_decoder", True, file) and not transcode
        try:
            sae = assemble("topk", options, tensors)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        stated = {
            "sites": sites_of_module(config.get("hookpoint"), transcode),
            "lm": provenance.language_model(config.get("model")),
        }
        # The library itself names folders after modules and writes the name nowhere else.
        guessed = {} if config.get("hookpoint") else {"sites": sites_of_module(path.resolve().name, transcode)}
        stamped = config.get(provenance.KEY)
        sae.metadata = provenance.metadata(self.name, None, stated, stamped, path / WEIGHTS, guessed)
        return sae

    def write(self, sae: SparseAutoencoder, folder: Path, rows: Tensor | None = None) -> None:
        one_site(self, sae)
        options = sae.options()
        if sae.name != "topk":
            raise self.refuse(f"sparsify has top-k and GroupMax only, and this SAE is {sae.name}")
        if options["selection"] == "abs_topk":
            raise self.refuse("sparsify puts a ReLU before top-k, which would lose AbsTopK's negative features")
        if sae.d_in != sae.d_out:
            raise self.refuse(f"sparsify has one width for input and output, not d_in={sae.d_in}, d_out={sae.d_out}")
        if sae.layer_norm:
            raise self.refuse("sparsify has no layer norm of the input", "train with another normalise= to export")
        transcode = is_transcoder(sae)
        same = plain(sae, subtract_b_dec=not transcode)
        tensors = {"encoder.weight": same.W_enc.T, "encoder.bias": same.b_enc, "W_dec": same.W_dec, "b_dec": same.b_dec}
        if same.W_skip is not None:
            tensors["W_skip"] = same.W_skip.T
        write_tensors(folder / WEIGHTS, tensors)
        activation = next(theirs for theirs, ours in _SELECTIONS.items() if ours == options["selection"])
        norms = same.W_dec.detach().norm(dim=1)
        config: dict[str, Any] = {
            "activation": activation,
            "expansion_factor": max(1, sae.d_sae // sae.d_in),
            "normalize_decoder": bool(torch.allclose(norms, torch.ones_like(norms), atol=1e-4)),
            "num_latents": sae.d_sae,
            "k": options["k"],
            "multi_topk": False,
            "skip_connection": sae.skip,
            "transcode": transcode,
            "d_in": sae.d_in,
        }
        # What the library's loader drops and ours reads.
        lm, sites = sae.metadata.get("lm") or {}, sae.metadata.get("sites") or {}
        site = (sites.get("write") or [None])[0]
        config["hookpoint"] = module_of(site) if site and not transcode else None
        config["model"] = provenance.without_paths(lm.get("name"))
        write_json(folder / CONFIG, config | {provenance.KEY: provenance.stamp(sae, folder / WEIGHTS)})


def _width(config: dict[str, Any], file: Path) -> int:
    if config.get("num_latents"):
        return positive_integer(config, "num_latents", file)
    return positive_integer(config, "d_in", file) * positive_integer(config, "expansion_factor", file)
