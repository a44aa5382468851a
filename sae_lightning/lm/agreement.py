"""Whether two ways through the same model give the same activations: windows to try, a figure, and what it may be."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Positions over which one median is taken: few enough that a mask that errs somewhere in the window fills one.
_STRETCH = 16
_LONGEST, _LONGEST_WIDENED = 1024, 256
# Weights in half precision are tried in float32 as well where that takes no more memory than this.
_WIDEN_BYTES = 1 << 30


def trial_length(length: int, sliding_window: int | None, *, wide: bool = False) -> int:
    """Return how many positions are tried for windows of ``length``.

    All of them, but no more than 1,024 (wide: 256, in float32 it costs more), beyond which nothing new happens; unless
    a sliding window is longer, then some way past its end.
    """
    return min(length, max(_LONGEST_WIDENED if wide else _LONGEST, (sliding_window or 0) + 4 * _STRETCH))


def trial_windows(length: int, vocab_size: int, device: torch.device) -> Int[Tensor, "2 length"]:
    """Return two windows that depend on nothing else: random tokens, and random ones that end in padding."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (2, length), generator=generator)
    tokens[1, length - length // 3 :] = 0
    return tokens.to(device)


def difference(ours: Float[Tensor, "b p ..."], theirs: Float[Tensor, "b p ..."]) -> float:
    """Return by how much ``ours`` is off: |ours - theirs| as a share of |theirs - median token|, worst stretch.

    Of each token the difference is set against its own distance from the median token, and against the distance of
    half of all tokens if that is more: a token of enormous norm neither hides the others nor is hidden itself, and a
    large mean that all tokens share hides nothing. Then the median over each 16 neighbouring positions, which a few
    tokens on the edge of something (attention sinks that flip) do not move, and of these the largest. A difference of
    shape or kind, or a value that is no number, is infinite.
    """
    if ours.shape[:2] != theirs.shape[:2] or ours.dtype != theirs.dtype or ours.numel() != theirs.numel():
        return float("inf")
    x, y = (value.flatten(2).float() for value in (ours, theirs))
    size = (y - y.flatten(0, 1).median(dim=0).values).norm(dim=-1)
    size = torch.maximum(size, size.median())
    off = (x - y).norm(dim=-1)
    # 0 / 0: a model whose tokens are all alike, and rightly so.
    relative = torch.where(off == 0, off, off / size)
    worst = max(float(part.median(dim=1).values.max()) for part in relative.split(_STRETCH, dim=1))
    return worst if bool(torch.isfinite(relative).all()) else float("inf")


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """Return the largest ``difference`` that rounding in ``dtype`` explains.

    Sixteen roundings in half precision (bfloat16 0.125, float16 0.016); SmolLM2, 30 layers in bfloat16, is off by 0.005
    at its first block and 0.04 at its last. In float32 0.001, where it is off by 0.000002; there a mask, a cap or a
    position that differs shows. On a GPU whose float32 products are rounded to TF32 sixteen roundings of those.
    """
    if dtype == torch.float32:
        tf32 = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
        return 16 * 2.0**-10 if tf32 else 1e-3
    return 16 * torch.finfo(dtype).eps


@contextlib.contextmanager
def widened(tensors: Iterable[Tensor], most: float = _WIDEN_BYTES) -> Iterator[bool]:
    """Widen half-precision ``tensors`` in place to float32 and give them back bit for bit; tell whether it was done.

    Not done where nothing is in half precision or float32 takes more than ``most`` bytes (1 GiB). Without it a wrong
    mask or position still shows, but a cap of scores that is 10 % off, or a rotation 2 % off, is less than rounding in
    bfloat16 may be.
    """
    halves = {id(t): t for t in tensors if t.is_floating_point() and t.element_size() < 4}
    # Tied and viewed tensors are counted as often as they are widened.
    if not halves or 4 * sum(t.numel() for t in halves.values()) > most:
        yield False
        return
    kept = [t.data for t in halves.values()]
    try:
        for tensor in halves.values():
            tensor.data = tensor.data.float()
        yield True
    finally:
        for tensor, data in zip(halves.values(), kept, strict=True):
            tensor.data = data
