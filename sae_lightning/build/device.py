"""Which device a run uses."""

import torch

from sae_lightning.core import UserError


def pick_device(name: str) -> str:
    """Return ``cuda`` for ``auto`` where there is a GPU, else ``cpu``; any other name as it is.

    Raises UserError for what is no device, and for one that the machine does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise UserError(f"device={name}: is no device; use auto, cpu, cuda, cuda:0 or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise UserError(f"device={name}: this machine has none; use device=auto")
    return name
