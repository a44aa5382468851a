"""The ``count`` largest of a whole batch by a radix search for the smallest of them.

The keys (``keys.py``) are searched digit by digit from the top, 8 bits a digit for 16-bit numbers and 11, 11 and 10
for float32: ``_digits`` counts the values of a digit among the keys that share the digits found so far, in chunks;
``_descend`` finds the digit in which the ``count``-th largest lies. With the last digit the counts by chunk also say
how many greater and how many equal keys lie before each chunk, so that ``_emit`` writes every place where it belongs
in flat order, the first of the equal ones up to ``count``.

Cost: 3 readings of z for 16-bit numbers, 4 for float32, and 8 bytes a selected place. Counts are int32 within a chunk
and int64 over the batch, so more than 2^31 numbers are fine. All in integers: exact, and the same every run.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.sae.kernels.triton.jit import kernel
from sae_lightning.sae.kernels.triton.keys import bits_of, load_keys

_BLOCK = 2048
_MOST_CHUNKS = 4096
_DIGITS = {16: (8, 8), 32: (11, 11, 10)}


def largest_places(flat: Float[Tensor, "size"], count: int) -> Int[Tensor, "kept"]:
    """Return the sorted places of the ``count`` largest entries; among equals the first.

    Always ``count`` of them (all, if there are fewer), non-positive ones too: their number is known without waiting
    for the device, and ReLU cuts them.
    """
    count = min(count, flat.numel())
    places = torch.empty(count, dtype=torch.int64, device=flat.device)
    if count:
        _launch(flat.contiguous(), count, places)
    return places


def _launch(z: Tensor, count: int, places: Tensor) -> None:
    total, bits = z.numel(), bits_of(z.dtype)
    digits = _DIGITS[bits]
    steps = max(8, triton.cdiv(triton.cdiv(total, _BLOCK), _MOST_CHUNKS))
    chunks = triton.cdiv(total, _BLOCK * steps)
    found = torch.zeros(len(digits) + 1, 2, dtype=torch.int64, device=z.device)
    found[0, 1].fill_(count)
    above = torch.empty(chunks, dtype=torch.int32, device=z.device)
    shift, counts = bits, above
    with torch.cuda.device_of(z):
        for number, width in enumerate(digits):
            shift -= width
            counts = torch.empty(chunks, 1 << width, dtype=torch.int32, device=z.device)
            _digits[(chunks,)](
                z, total, steps, found[number], above, counts, SHIFT=shift, WIDTH=width, FIRST=number == 0, BITS=bits,
                BLOCK=_BLOCK, num_warps=8,
            )  # fmt: skip
            _descend[(1,)](counts.sum(0), found[number], found[number + 1], WIDTH=width, FIRST=number == 0, num_warps=4)
        greater, equal = (torch.empty(chunks, dtype=torch.int64, device=z.device) for _ in range(2))
        _compare[(chunks,)](counts, above, found[-1], greater, equal, WIDTH=digits[-1], num_warps=1)
        greater_before, equal_before = greater.cumsum(0) - greater, equal.cumsum(0) - equal
        _emit[(chunks,)](
            z, total, steps, found[-1], greater_before, equal_before, places, BITS=bits, BLOCK=_BLOCK, num_warps=8
        )


@kernel
@no_type_check
def _digits(
    z,
    total,
    steps,
    found,
    above,
    counts,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Count the values of one digit in a chunk, and the keys that are greater in the digits before it."""
    chunk = tl.program_id(0).to(tl.int64)
    bins: tl.constexpr = 1 << WIDTH
    prefix = tl.load(found).to(tl.int32)
    sums = tl.zeros([bins], tl.int32)
    greater = tl.zeros([BLOCK], tl.int32)
    for step in range(steps):
        at = (chunk * steps + step) * BLOCK + tl.arange(0, BLOCK)
        inside = at < total
        key = load_keys(z, at, inside, BITS)
        digit = (key >> SHIFT) & (bins - 1)
        if FIRST:
            # The sign: negative keys come before the others.
            digit = digit ^ (bins >> 1)
            same = inside
        else:
            higher = key >> (SHIFT + WIDTH)
            same = inside & (higher == prefix)
            greater += (inside & (higher > prefix)).to(tl.int32)
        sums += tl.histogram(digit, bins, mask=same)
    tl.store(counts + chunk * bins + tl.arange(0, bins), sums)
    tl.store(above + chunk, tl.sum(greater, 0))


@kernel
@no_type_check
def _descend(sums, before, after, WIDTH: tl.constexpr, FIRST: tl.constexpr):
    """From (digits so far, how many to take among their keys) to the same with one digit more."""
    bins: tl.constexpr = 1 << WIDTH
    digit = tl.arange(0, bins)
    size = tl.load(sums + digit)
    beyond = tl.sum(size, 0) - tl.cumsum(size, 0)
    wanted = tl.load(before + 1)
    here = (beyond < wanted) & (wanted <= beyond + size)
    chosen = tl.sum(tl.where(here, digit, 0).to(tl.int64), 0)
    # Nothing before the first digit (0), which is signed.
    prefix = tl.load(before) * bins + chosen - (bins >> 1 if FIRST else 0)
    tl.store(after, prefix)
    tl.store(after + 1, wanted - tl.sum(tl.where(here, beyond, 0), 0))


@kernel
@no_type_check
def _compare(counts, above, found, greater, equal, WIDTH: tl.constexpr):
    """Turn a chunk's counts of the last digit into its keys above the threshold and those equal to it."""
    chunk = tl.program_id(0).to(tl.int64)
    bins: tl.constexpr = 1 << WIDTH
    digit = tl.arange(0, bins)
    last = tl.load(found) & (bins - 1)
    size = tl.load(counts + chunk * bins + digit)
    more = tl.load(above + chunk) + tl.sum(tl.where(digit > last, size, 0), 0)
    tl.store(greater + chunk, more.to(tl.int64))
    tl.store(equal + chunk, tl.sum(tl.where(digit == last, size, 0), 0).to(tl.int64))


@kernel
@no_type_check
def _emit(z, total, steps, found, greater_before, equal_before, places, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Write the places of the keys above the threshold and of the first ``room`` equal ones, in flat order."""
    chunk = tl.program_id(0).to(tl.int64)
    threshold = tl.load(found).to(tl.int32)
    room = tl.load(found + 1)
    greater_so_far = tl.load(greater_before + chunk)
    equal_so_far = tl.load(equal_before + chunk)
    for step in range(steps):
        at = (chunk * steps + step) * BLOCK + tl.arange(0, BLOCK)
        inside = at < total
        key = load_keys(z, at, inside, BITS)
        greater = inside & (key > threshold)
        equal = inside & (key == threshold)
        # One running sum for both counts: neither exceeds the block, which has fewer than 2^15 numbers.
        both = tl.cumsum(greater.to(tl.int32) + (equal.to(tl.int32) << 16), 0)
        greater_rank = greater_so_far + (both & 0xFFFF)
        equal_rank = equal_so_far + (both >> 16)
        place = greater_rank + tl.minimum(equal_rank, room) - 1
        tl.store(places + place, at, mask=greater | (equal & (equal_rank <= room)))
        last = tl.max(both, 0)  # both counts only grow
        greater_so_far += last & 0xFFFF
        equal_so_far += last >> 16
