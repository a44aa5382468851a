"""Where the weights of a language model lie: on one device, or spread over several by accelerate."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from sae_lightning.core import UserError, nearest

# auto, balanced, balanced_low_0, sequential, or a device by module path ("" is the whole model).
DeviceMap = str | Mapping[str, Any]
_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device(device: str) -> None:
    """Raise UserError for what is no device, and for one that this machine does not have."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"lm.device={device!r}: not a device; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"lm.device={device!r}: this machine has no usable CUDA device; use lm.device=cpu")
    if kind == "cuda" and (torch.device(device).index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"lm.device={device!r}: this machine has {count} CUDA device(s), numbered from cuda:0")


def check_device_map(device_map: DeviceMap) -> str | dict[str, Any]:
    """Return a device map as transformers takes it.

    Raises UserError where accelerate is missing, for unknown names, and for devices that this machine does not have.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            f"lm.device_map={device_map!r}: needs the package accelerate; pip install 'sae-lightning[device-map]', or "
            "leave it out and set lm.device"
        )
    if isinstance(device_map, str):
        if device_map not in _STRATEGIES:
            raise UserError(
                f"lm.device_map={device_map!r}: must be one of {', '.join(_STRATEGIES)}, or a device by module path, "
                f"for example {{model.layers.0: 0}}{nearest(device_map, _STRATEGIES)}"
            )
        return device_map
    for path, device in device_map.items():
        if device != "disk":
            try:
                check_device(f"cuda:{device}" if isinstance(device, int) else str(device))
            except UserError as error:
                raise UserError(f"lm.device_map.{path}: {error}") from error
    return dict(device_map)
