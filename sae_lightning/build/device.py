"""Which device a run uses."""

import torch


def pick_device(name: str) -> str:
    """Return ``cuda`` for ``auto`` where there is a GPU, else ``cpu``; any other name as it is."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
