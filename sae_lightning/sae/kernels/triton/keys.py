"""Numbers as integers of the same order, which selection counts and compares bit by bit.

The sign bit of an IEEE number is followed by its size, so flipping the lower bits of the negative ones makes signed
integers in the order of the numbers. -0 and 0 are equal; every NaN is above +inf, so that it is selected and the loss
shows it. The lowest integer is no number's key: it fills masked places. float32 gives 32 bits, the others 16.
"""

from typing import no_type_check

import torch
import triton.language as tl

from sae_lightning.sae.kernels.triton.jit import kernel


def bits_of(dtype: torch.dtype) -> int:
    """Return how many bits the keys of this dtype have."""
    return torch.finfo(dtype).bits


@kernel
@no_type_check
def load_keys(z, at, inside, BITS: tl.constexpr):
    """Return the int32 keys of ``z[at]``; the lowest integer where not ``inside``."""
    value = tl.load(z + at, mask=inside, other=0.0)
    raw = value.to(tl.int32 if BITS == 32 else tl.int16, bitcast=True).to(tl.int32)
    number = value.to(tl.float32)
    highest: tl.constexpr = (1 << (BITS - 1)) - 1
    key = raw ^ ((raw >> (BITS - 1)) & highest)
    key = tl.where(number == 0, 0, key)
    key = tl.where(number != number, highest, key)
    return tl.where(inside, key, -highest - 1)
