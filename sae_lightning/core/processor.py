"""What this machine's processor does fast."""

import torch


def fast_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 matrices faster than float32 ones."""
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, ask, bool)() for ask in asks)
