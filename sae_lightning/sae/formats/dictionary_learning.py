"""dictionary_learning: ``config.json`` (``trainer.dict_class`` and friends) and ``ae.pt``, a state dict of tensors."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_lightning.core import UserError, atomic_path, write_json
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.formats import provenance
from sae_lightning.sae.formats.algebra import plain
from sae_lightning.sae.formats.base import Format, is_transcoder, one_site
from sae_lightning.sae.formats.dictionary_classes import CLASSES, DictionaryClass, class_for
from sae_lightning.sae.formats.files import Weights, assemble, peek_json, read_json, section
from sae_lightning.sae.formats.hooks import sites_of_submodule, submodule_of

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "config.json", "ae.pt"


class DictionaryLearningFormat(Format):
    """One class of theirs for each architecture, with one width d for input and output (see dictionary_classes).

    ``ae.pt`` is opened with ``weights_only``: a pickle with code in it is refused and nothing in it is executed.
    Equal by algebra: rescaling by decoder norms, and a b_dec subtracted here and not there. A standard SAE goes out as
    ``AutoEncoder`` where its decoder has unit norm, which that loader enforces, else as ``AutoEncoderNew``.
    Not held: skip paths, d_in != d_out, layer norm, LeakyReLU, AbsTopK, GroupMax, several sites.
    """

    name = "dictionary_learning"
    files = f"{WEIGHTS} with {CONFIG}, or a .pt file"
    patterns = (CONFIG, WEIGHTS)

    def recognise(self, path: Path) -> bool:
        return path.suffix == ".pt" if path.is_file() else (path / WEIGHTS).exists()

    def how_to_load(self, folder: str) -> str:
        return (
            "from dictionary_learning.utils import load_dictionary\n\n"
            f'sae, config = load_dictionary({folder}, device="cpu")\n'
            "features = sae.encode(rows)\nreconstruction = sae.decode(features)"
        )

    def read(self, path: Path) -> SparseAutoencoder:
        file = path if path.is_file() else path / WEIGHTS
        config_file = _config_of(file)
        config = read_json(config_file) if config_file else {}
        trainer, buffer = (section(config, key, config_file or file) for key in ("trainer", "buffer"))
        weights = Weights.of_pickle(file)
        kind = _class(trainer.get("dict_class"), weights, config_file or file)
        d_sae, d = kind.widths(weights)
        for key, found in (("activation_dim", d), ("dict_size", d_sae)):
            if trainer.get(key, found) != found:
                raise UserError(
                    f"{config_file}: {key}={trainer[key]!r}, but {file.name} has {found}; the two contradict each "
                    "other: get both files again"
                )
        options, tensors = kind.read(weights, trainer, d, d_sae)
        weights.finish()
        try:
            sae = assemble(kind.ours, {"d_in": d, "d_sae": d_sae, **options}, tensors)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        if isinstance(sae, BatchTopKSAE) and not bool(sae.threshold_set):
            logger.warning("%s: its inference threshold was never set; every positive pre-activation fires", file)
        if kind.name == "AutoEncoder":
            _unit_norm_(sae)
        written_elsewhere = buffer.get("io") == "in_and_out"
        stated = {
            "sites": None if written_elsewhere else sites_of_submodule(trainer.get("submodule_name")),
            "lm": provenance.language_model(trainer.get("lm_name")),
            "data": provenance.data(buffer.get("ctx_len")),
        }
        stamped = config.get(provenance.KEY)
        sae.metadata = provenance.metadata(self.name, None, stated, stamped, file)
        return sae

    def write(self, sae: SparseAutoencoder, folder: Path, rows: Tensor | None = None) -> None:
        one_site(self, sae)
        if sae.d_in != sae.d_out:
            raise self.refuse(f"its classes have one width, not d_in={sae.d_in}, d_out={sae.d_out}", "use to=saelens")
        if sae.skip:
            raise self.refuse("its classes have no skip path", "use to=saelens or to=sparsify")
        if sae.layer_norm:
            raise self.refuse("its classes have no layer norm of the input", "train with another normalise= to export")
        kind = class_for(self, sae)
        same = plain(sae, subtract_b_dec=kind.subtracts)
        state = {k: v.detach().clone().contiguous() for k, v in kind.write(sae, same).items()}
        with atomic_path(folder / WEIGHTS) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # all that torch says of a full disk
                raise OSError(str(error).splitlines()[0]) from error
        lm, sites = sae.metadata.get("lm") or {}, sae.metadata.get("sites") or {}
        site = None if is_transcoder(sae) else (sites.get("read") or [None])[0]
        submodule, layer = (submodule_of(site) if site else None) or (None, None)
        trainer: dict[str, Any] = {
            "dict_class": kind.name,
            "trainer_class": None,
            "activation_dim": sae.d_in,
            "dict_size": sae.d_sae,
            "layer": layer,
            "lm_name": provenance.without_paths(lm.get("name")),
            "submodule_name": submodule,
        }
        if "k" in (options := sae.options()):
            trainer["k"] = options["k"]
        data = sae.metadata.get("data") or {}
        stamp = provenance.stamp(sae, folder / WEIGHTS)
        # As its own buffers say it: a dictionary that reads a module's input and writes its output is a transcoder.
        buffer = {"ctx_len": data.get("context_length"), "io": "in_and_out" if is_transcoder(sae) else "out"}
        write_json(folder / CONFIG, {"trainer": trainer, "buffer": buffer, provenance.KEY: stamp})


def _config_of(file: Path) -> Path | None:
    """Return the config of a state dict: beside it, or one level up for those in ``checkpoints/``."""
    folders = [file.parent, *([file.parent.parent] if file.parent.name == "checkpoints" else [])]
    return next((folder / CONFIG for folder in folders if "trainer" in peek_json(folder / CONFIG)), None) or next(
        (folder / CONFIG for folder in folders[:1] if (folder / CONFIG).is_file()), None
    )


def _class(name: Any, weights: Weights, where: Path) -> DictionaryClass:
    if name is not None:
        if not isinstance(name, str) or name not in CLASSES:
            known = ", ".join(CLASSES)
            raise UserError(f"{where}: dict_class is {name!r}, and can be one of {known}; get a file of those")
        return CLASSES[name]
    fitting = [kind for kind in CLASSES.values() if kind.keys == weights.tensors.keys()]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        which = " or ".join(kind.name for kind in fitting)
        raise UserError(f"{where}: may be {which}; put the config.json that was saved with it beside it (dict_class)")
    raise UserError(f"{where}: its tensors ({', '.join(sorted(weights.tensors))}) are those of no known class")


@torch.no_grad()
def _unit_norm_(sae: SparseAutoencoder) -> None:
    """Take features in the units that ``AutoEncoder.from_pretrained`` gives them: those of a unit-norm decoder."""
    norms = sae.W_dec.double().norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms)):
        sae.scale_features_(torch.where(norms > 0, norms, 1.0))
