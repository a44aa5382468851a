"""The encoder's product, a block of features at a time, in the precision that selecting needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.core import ALONE, Ranks
from sae_lightning.core.recycled import Recycled

#: Bytes of pre-activations [n, features] that are made at once unless told otherwise.
BLOCK_BYTES = 256 << 20


@dataclass
class Execution:
    """How an SAE computes. It changes speed, memory and last bits, and nothing that the SAE means; it is not saved.

    product: what the product that *selects* features is computed in while training; None is the weights' dtype (or
        autocast's). What has been selected in a narrower one is always scored again with the weights as they are, and
        more candidates are taken than will be kept, so that rounding decides little.
    block_bytes: pre-activations [n, d_sae] above this size are never whole: features go by in blocks.
    whole_pre_acts: a loss reads all pre-activations, so architectures that could do without make them all the same.
    memory: what blocks are written into; host memory that is used again.
    ranks: processes that train this SAE together. sharded: False: they hold different rows of the batch and all
        features (data parallel); True: different features of the same rows.
    """

    product: torch.dtype | None = None
    block_bytes: int = BLOCK_BYTES
    whole_pre_acts: bool = False
    memory: Recycled = field(default_factory=Recycled, repr=False, compare=False)
    ranks: Ranks = ALONE
    sharded: bool = False

    @property
    def row_ranks(self) -> Ranks:
        """The ranks that hold the other rows of the batch; alone where this process has all of them."""
        return ALONE if self.sharded else self.ranks

    @property
    def feature_ranks(self) -> Ranks:
        """The ranks that hold the other features; alone where this process has all of them."""
        return self.ranks if self.sharded else ALONE

    def selecting_dtype(self, like: Tensor) -> torch.dtype:
        """Return the dtype of the product that selects, for weights ``like``."""
        kind = like.device.type
        if self.product is not None:
            return self.product
        # Autocast narrows products of float32 only.
        if torch.is_autocast_enabled(kind) and like.dtype == torch.float32:
            return torch.get_autocast_dtype(kind)
        return like.dtype

    def width(self, rows: int, d_sae: int, dtype: torch.dtype, multiple: int = 1) -> int:
        """Return the features of a block: all, or as many as ``block_bytes`` holds, in whole ``multiple`` s.

        rows: of the block and of what has to be made for it.
        """
        fits = self.block_bytes // max(1, rows * dtype.itemsize)
        if fits >= d_sae:
            return d_sae
        n_blocks = -(-d_sae // max(1, fits))
        even = -(-d_sae // n_blocks)
        return min(d_sae, -(-even // multiple) * multiple)


@torch.no_grad()
def pre_act_blocks(
    centred: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    norms: Float[Tensor, "d_sae"] | None,
    execution: Execution,
    dtype: torch.dtype,
    multiple: int = 1,
    numbers: Int[Tensor, "chosen"] | None = None,
) -> Iterator[tuple[int, Float[Tensor, "n width"]]]:
    """Yield (first, ``(centred W_enc + b_enc) norms`` of a block of features) in ``dtype``.

    numbers: of these features alone; ``first`` then counts in them. A block is overwritten by the next, unless it is
    the only one: that one is nobody else's as long as it is held.
    """
    n, d_sae = centred.shape[0], W_enc.shape[1] if numbers is None else len(numbers)
    by_feature = W_enc.detach().t()
    if numbers is not None:
        b_enc, norms = b_enc[numbers], None if norms is None else norms[numbers]
    copied = dtype != W_enc.dtype or numbers is not None
    width = execution.width(n + len(W_enc) * copied, d_sae, dtype, multiple)
    # Memory for one of several blocks goes back to the system before gradients come: it would add to their peak.
    pool = execution.memory if width == d_sae and centred.device.type == "cpu" else None
    memory = _empty(pool, (n * width,), dtype, centred.device)
    weights = _empty(pool, (width, len(W_enc)), dtype, centred.device) if copied else by_feature
    x, bias = centred.detach().to(dtype), b_enc.detach().to(dtype)
    with torch.autocast(centred.device.type, enabled=False):
        for first in range(0, d_sae, width):
            part = slice(first, min(first + width, d_sae))
            size = part.stop - first
            chosen = by_feature[part] if numbers is None else by_feature[numbers[part]]
            block = weights[:size].copy_(chosen) if copied else chosen
            z = torch.addmm(bias[part], x, block.t(), out=memory[: n * size].view(n, size))
            yield first, z if norms is None else z.mul_(norms.detach()[part])


def _empty(pool: Recycled | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device) if pool is None else pool.take(shape, dtype)
