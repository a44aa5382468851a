"""Other libraries' files, checked as they are read: JSON, safetensors, and pickles of tensors without code."""

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_lightning.core import UserError, atomic_path
from sae_lightning.sae.base import SparseAutoencoder
from sae_lightning.sae.registry import sae_class

AGAIN = "get the file again"


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    if not file.is_file():
        raise UserError(f"{file}: is missing; {AGAIN}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: can't be read as JSON ({error}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds no JSON object; {AGAIN}")
    return value


def peek_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where there is none to read."""
    try:
        return read_json(file)
    except UserError:
        return {}


def positive_integer(config: Mapping[str, Any], key: str, file: Path) -> int:
    """Return ``config[key]``; UserError where it is missing or no whole number of at least 1."""
    value = config.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        state = "is missing" if key not in config else f"is {value!r}"
        raise UserError(f"{file}: {key} {state}, but must be a whole number of at least 1; {AGAIN}")
    return value


def flag(config: Mapping[str, Any], key: str, default: bool, file: Path) -> bool:
    """Return ``config[key]``, ``default`` where it is missing; UserError for anything but true and false."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"{file}: {key} is {value!r}, but must be true or false; {AGAIN}")
    return value


def section(config: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    """Return the object ``config[key]``, empty where it is missing or null; UserError for anything else."""
    value = config.get(key)
    if not isinstance(value, dict | None):
        raise UserError(f"{file}: {key} is {value!r}, but must be an object; {AGAIN}")
    return value or {}


class Weights:
    """The tensors of a file, taken one by one with the shape each must have.

    They come as float32 (``exact``: float64), integers where those are asked for. Raises UserError for a missing
    tensor, another shape, another type of numbers, a tensor without memory of its own (meta, sparse, expanded), NaN or
    infinity, and, by ``finish``, for tensors that nobody took: a part left out would be another SAE.
    """

    def __init__(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        self.tensors, self.file = dict(tensors), file
        for name, tensor in self.tensors.items():
            if not _is_plain(tensor):
                raise UserError(f"{file}: {name} is no plain tensor that holds all its numbers; save a contiguous copy")

    @classmethod
    def of_safetensors(cls, file: Path) -> "Weights":
        """Read a safetensors file whole."""
        if not file.is_file():
            raise UserError(f"{file}: is missing; {AGAIN}")
        try:
            tensors = load_file(str(file))
        except (OSError, SafetensorError, RuntimeError, LookupError, TypeError, AttributeError) as error:
            # The last four: types of numbers that this version of torch does not have.
            raise UserError(f"{file}: torn or not a safetensors file ({error}); {AGAIN}") from error
        return cls(tensors, file)

    @classmethod
    def of_pickle(cls, file: Path) -> "Weights":
        """Read a state dict that torch saved, executing nothing that is in the file."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of unusual pickles, which are read whole or refused below
                value = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{file}: holds more than tensors, or is torn; nothing in it was executed. Save ae.state_dict() alone "
                f"and give that ({(str(error).splitlines() or [''])[0]})"
            ) from None
        except Exception as error:  # a torn pickle breaks its reader in ways without number
            raise UserError(
                f"{file}: torn or no state dict of torch ({str(error).splitlines()[:1]}); {AGAIN}"
            ) from None
        if not isinstance(value, dict) or not all(isinstance(v, Tensor) for v in value.values()):
            raise UserError(f"{file}: is no state dict; save ae.state_dict() and give that")
        return cls({str(key): tensor for key, tensor in value.items()}, file)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that stays; UserError where it is missing."""
        if name not in self.tensors:
            raise UserError(f"{self.file}: {name} is missing (there are {', '.join(sorted(self.tensors))}); {AGAIN}")
        return tuple(self.tensors[name].shape)

    def take(self, name: str, *shape: int, exact: bool = False, integer: bool = False) -> Tensor:
        """Return and remove a tensor of that shape. integer: of whole numbers, which come as they are."""
        if (found := self.shape(name)) != shape:
            raise UserError(
                f"{self.file}: {name} has shape {list(found)}, but the config beside it says {list(shape)}; the two "
                f"contradict each other: {AGAIN}"
            )
        tensor = self.tensors.pop(name).detach()
        whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
        if not (whole if integer else tensor.is_floating_point()):
            wanted = "whole" if integer else "floating-point"
            raise UserError(f"{self.file}: {name} is of type {tensor.dtype}, but must hold {wanted} numbers; {AGAIN}")
        if integer:
            return tensor
        tensor = tensor.to(torch.float64 if exact else torch.float32)
        if not torch.isfinite(tensor).all():
            raise UserError(f"{self.file}: {name} holds NaN or infinity; get an SAE from a good checkpoint")
        return tensor

    def finish(self) -> None:
        """Raise UserError for tensors that are left."""
        if self.tensors:
            raise UserError(
                f"{self.file}: {', '.join(sorted(self.tensors))}: unknown to this architecture; another version of the "
                "format, or a config of another SAE"
            )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has all its numbers in memory: an expanded one may claim more than any machine has."""
    if tensor.is_meta or tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def assemble(architecture: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SparseAutoencoder:
    """Return an SAE of this package with these weights, in eval mode."""
    with torch.device("meta"):
        sae = sae_class(architecture)(**options)
    sae.load_state_dict({name: tensor.contiguous() for name, tensor in tensors.items()}, assign=True)
    return sae.requires_grad_(True).eval()


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file of contiguous tensors that share no memory, whole or not at all."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(file) as temporary:
        save_file(plain, str(temporary))
