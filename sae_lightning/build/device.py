"""Which device a run uses, and which processes share its batches."""

import torch

from sae_lightning.config import RunConfig
from sae_lightning.core import ALONE, Ranks, UserError


def pick_device(name: str) -> str:
    """Return ``cuda`` for ``auto`` where there is a GPU, else ``cpu``; any other name as it is.

    Of several processes each has made a GPU of its own the present one, which ``cuda`` means.
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


def training_device(config: RunConfig) -> torch.device:
    """Return the device that the SAE is trained on."""
    accelerator = config.trainer.accelerator
    return torch.device(pick_device("auto" if accelerator in ("auto", "gpu") else accelerator))


def row_ranks(config: RunConfig) -> Ranks:
    """Return the processes that the rows of a batch are spread over; alone where each has all of them."""
    return ALONE if config.trainer.sharded else Ranks.present()


def apart(a: torch.device, b: torch.device) -> bool:
    """Whether these are two devices; one without a number is the present one of its kind."""

    def number(device: torch.device) -> int:
        if device.index is not None:
            return device.index
        return torch.cuda.current_device() if device.type == "cuda" else 0

    return (a.type, number(a)) != (b.type, number(b))
