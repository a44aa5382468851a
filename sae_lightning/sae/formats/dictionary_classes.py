"""The classes of dictionary_learning: their tensors, and which of ours they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_lightning.core import UserError
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.batch_topk import BatchTopKSAE
from sae_lightning.sae.formats.algebra import log_theta, thresholds
from sae_lightning.sae.formats.base import Format
from sae_lightning.sae.formats.files import Weights

Read = tuple[dict[str, Any], dict[str, Tensor]]


@dataclass(frozen=True)
class DictionaryClass:
    """One class of theirs. name: theirs; ours: the architecture it is; subtracts: whether it encodes ``x - b_dec``.

    linear: how it names ours: each entry is ``their key -> (our tensor, transposed)``.
    scalars: integers and thresholds beside them. read: the rest of (options, tensors) from a file.
    """

    name: str
    ours: str
    subtracts: bool
    linear: Mapping[str, tuple[str, bool]]
    scalars: tuple[str, ...] = ()
    extra: Callable[[Weights, Mapping[str, Any], int], Read] = lambda weights, trainer, d_sae: ({}, {})

    @property
    def keys(self) -> set[str]:
        """The keys of its state dict."""
        return {*self.linear, *self.scalars}

    def widths(self, weights: Weights) -> tuple[int, int]:
        """Return (d_sae, d) from the encoder's shape."""
        key, transposed = next((k, t) for k, (ours, t) in self.linear.items() if ours == "W_enc")
        shape = weights.shape(key)
        if len(shape) != 2:
            raise UserError(f"{weights.file}: {key} has shape {list(shape)}, but must be a matrix; get the file again")
        return (shape[0], shape[1]) if transposed else (shape[1], shape[0])

    def read(self, weights: Weights, trainer: Mapping[str, Any], d: int, d_sae: int) -> Read:
        """Return our options and tensors."""
        shapes = {"W_enc": (d, d_sae), "W_dec": (d_sae, d), "b_dec": (d,)}
        tensors = {}
        for key, (ours, transposed) in self.linear.items():
            shape = shapes.get(ours, (d_sae,))
            tensors[ours] = weights.take(key, *shape[::-1]).T if transposed else weights.take(key, *shape)
        options, more = self.extra(weights, trainer, d_sae)
        return {"subtract_b_dec": self.subtracts, **options}, {**tensors, **more}

    def write(self, sae: SparseAutoencoder, same: SparseAutoencoder) -> dict[str, Tensor]:
        """Return the state dict. same: ``sae`` in this class's parameters."""
        state: dict[str, Tensor] = {}
        for key, (ours, transposed) in self.linear.items():
            tensor = getattr(same, ours)
            state[key] = tensor.T if transposed else tensor
        cut = thresholds(sae)
        if "k" in self.scalars:
            # A negative threshold says that none was set: top-k selects by rank.
            state["k"] = torch.tensor(sae.options()["k"], dtype=torch.int32)
            state["threshold"] = torch.tensor(-1.0) if cut is None else cut[0]
        elif cut is not None:
            state["threshold"] = cut
        if "group_sizes" in self.scalars:
            ends = getattr(sae, "prefix_sizes")  # noqa: B009 - of MatryoshkaSAE alone
            state["group_sizes"] = torch.tensor([0, *ends]).diff()
        return state


def _rank(weights: Weights, trainer: Mapping[str, Any], d_sae: int) -> int:
    """Return k, which the state dict and the config both hold."""
    held = int(weights.take("k", integer=True)) if "k" in weights else None
    said = trainer.get("k", held)
    if held is None and said is None:
        raise UserError(f"{weights.file}: k is missing, and no config.json beside it has it; get the file again")
    if held is not None and said != held:
        raise UserError(f"{weights.file}: k={held}, but its config.json says k={said!r}; get both files again")
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        raise UserError(f"{weights.file}: k={said!r}, but must be a whole number of at least 1; get the file again")
    return said


def _top_k(weights: Weights, trainer: Mapping[str, Any], d_sae: int) -> Read:
    # Its threshold is an option of its encode(); what the class does by default is top-k.
    if "threshold" in weights:
        weights.take("threshold")
    return {"k": _rank(weights, trainer, d_sae)}, {}


def _batch_top_k(weights: Weights, trainer: Mapping[str, Any], d_sae: int) -> Read:
    threshold = weights.take("threshold", exact=True)
    tensors = {"threshold": threshold.clamp(min=0), "threshold_set": threshold >= 0}
    return {"k": _rank(weights, trainer, d_sae)}, tensors


def _matryoshka(weights: Weights, trainer: Mapping[str, Any], d_sae: int) -> Read:
    options, tensors = _batch_top_k(weights, trainer, d_sae)
    shape = weights.shape("group_sizes")
    if len(shape) != 1:
        raise UserError(f"{weights.file}: group_sizes has shape {list(shape)}, but must be a list; get the file again")
    sizes: list[int] = weights.take("group_sizes", *shape, integer=True).tolist()
    if sum(sizes) != d_sae or min(sizes, default=0) < 1 or len(sizes) < 2:
        raise UserError(f"{weights.file}: group_sizes {sizes} are no groups of {d_sae} features; get the file again")
    return {**options, "groups": tuple(size / d_sae for size in sizes[:-1])}, tensors


def _jump(weights: Weights, trainer: Mapping[str, Any], d_sae: int) -> Read:
    return {}, {"log_theta": log_theta(weights.take("threshold", d_sae, exact=True))}


_LINEAR = {"encoder.weight": ("W_enc", True), "encoder.bias": ("b_enc", False), "decoder.weight": ("W_dec", True)}
_PLAIN = {name: (name, False) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_GATED = {
    "encoder.weight": ("W_enc", True),
    "gate_bias": ("b_enc", False),
    "mag_bias": ("b_mag", False),
    "r_mag": ("r_mag", False),
    "decoder.weight": ("W_dec", True),
    "decoder_bias": ("b_dec", False),
}
_RANKED = ("k", "threshold")
_ALL = (
    DictionaryClass("AutoEncoder", "standard", True, {**_LINEAR, "bias": ("b_dec", False)}),
    DictionaryClass("AutoEncoderNew", "standard", False, {**_LINEAR, "decoder.bias": ("b_dec", False)}),
    DictionaryClass("AutoEncoderTopK", "topk", True, {**_LINEAR, "b_dec": ("b_dec", False)}, _RANKED, _top_k),
    DictionaryClass("BatchTopKSAE", "batch_topk", True, {**_LINEAR, "b_dec": ("b_dec", False)}, _RANKED, _batch_top_k),
    DictionaryClass("MatryoshkaBatchTopKSAE", "matryoshka", True, _PLAIN, (*_RANKED, "group_sizes"), _matryoshka),
    DictionaryClass("JumpReluAutoEncoder", "jumprelu", False, _PLAIN, ("threshold",), _jump),
    DictionaryClass("GatedAutoEncoder", "gated", True, _GATED),
)
CLASSES = {kind.name: kind for kind in _ALL}


def class_for(form: Format, sae: SparseAutoencoder) -> DictionaryClass:
    """Return the class that holds ``sae``. Raises UserError for an SAE that none does."""
    options = sae.options()
    if options.get("negative_slope"):
        raise form.refuse(f"dictionary_learning has no LeakyReLU (negative_slope={options['negative_slope']})")
    if options.get("selection", "topk") != "topk":
        raise form.refuse(f"dictionary_learning has no selection {options['selection']}")
    if isinstance(sae, BatchTopKSAE) and not bool(sae.threshold_set):
        raise form.refuse("this batch top-k SAE has no inference threshold yet", "calibrate_threshold first")
    fitting = [kind for kind in _ALL if kind.ours == sae.name]
    if not fitting:
        raise form.refuse(f"dictionary_learning has nothing like architecture {sae.name!r}")
    if sae.name != "standard":
        return fitting[0]
    # Its loader of AutoEncoder divides by decoder norms that are not 1: features would change, and rows of 0 be NaN.
    norms = sae.W_dec.detach().norm(dim=1)
    if sae.rescale_acts_by_decoder_norm:
        norms = (norms > 0).float()  # what they are once they went into the encoder
    return CLASSES["AutoEncoder" if torch.allclose(norms, torch.ones_like(norms)) else "AutoEncoderNew"]
