"""The activations that every step is measured on, ours and the peers': planted directions, always the same rows."""

from collections.abc import Iterator
from itertools import cycle

import torch
from torch import Tensor

N_ATOMS, ACTIVE, NOISE, POOL = 256, 8, 0.1, 4


def planted_pool(d_in: int, batch: int, seed: int = 0) -> list[Tensor]:
    """Return ``POOL`` float32 batches [batch, d_in]: 256 planted directions, 8 active a row, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(N_ATOMS, d_in, generator=generator)
    pool = []
    for _ in range(POOL):
        active = torch.randint(0, N_ATOMS, (batch, ACTIVE), generator=generator)
        code = torch.zeros(batch, N_ATOMS).scatter_(1, active, torch.rand(batch, ACTIVE, generator=generator))
        pool.append(code @ atoms + NOISE * torch.randn(batch, d_in, generator=generator))
    return pool


def endless(pool: list[Tensor], device: str = "cpu") -> Iterator[Tensor]:
    """Yield the batches of a pool for ever, kept on a device."""
    return cycle([batch.to(device) for batch in pool])


def threshold_for(pre_acts: Tensor, k: int) -> float:
    """Return t so that ``pre_acts > t`` holds for k features a row on average. pre_acts: [n, d_sae].

    t lies halfway between the last value that is above it and the next. Raises ValueError unless 0 < k < d_sae.
    """
    n, d_sae = pre_acts.shape
    if not 0 < k < d_sae:
        raise ValueError(f"k={k}: must lie between 1 and d_sae - 1 = {d_sae - 1}")
    last, following = pre_acts.flatten().topk(n * k + 1).values[-2:].tolist()
    return (last + following) / 2
