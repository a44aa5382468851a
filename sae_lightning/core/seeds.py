"""Seeds: one number a run, from which every random stream derives its own, so that streams never share draws."""

import hashlib

import torch


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``path``.

    ``sha256(seed / path...)`` truncated: independent streams for independent names, the same on every machine, and
    adding a stream changes no other one.
    """
    name = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU generator seeded with ``derive_seed(seed, *path)``.

    Always on the CPU, whatever the device of the result: the same draws on every machine.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *path))
