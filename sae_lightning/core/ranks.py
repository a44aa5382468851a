"""Processes that train one run together: who is who, and what they add up."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """``world`` processes of which this one is ``rank``; alone (world 1) every sum is its own and nothing is sent.

    Every method is a collective: all ranks call it, in the same order, with values of the same shape.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def present(cls) -> "Ranks":
        """Return the ranks of this process's group, alone where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def alone(self) -> bool:
        return self.world == 1

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over ranks, the same bits on each; without a gradient."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def sum_(self, value: Tensor) -> Tensor:
        """Replace ``value`` (contiguous) by its sum over ranks and return it; nothing is copied."""
        if not self.alone:
            dist.all_reduce(value)
        return value

    def least(self, value: Tensor) -> Tensor:
        """Return the elementwise minimum over ranks, without a gradient."""
        return self._reduced(value, dist.ReduceOp.MIN)

    def stack(self, value: Tensor) -> Tensor:
        """Return every rank's value, [world, ...], without a gradient."""
        value = value.detach().contiguous()
        if self.alone:
            return value[None]
        parts = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(parts, value)
        return torch.stack(parts)

    def objects(self, value: Any) -> list[Any]:
        """Return every rank's value (anything that pickles), by rank."""
        if self.alone:
            return [value]
        out: list[Any] = [None] * self.world
        dist.all_gather_object(out, value)
        return out

    def to_first(self, value: Any) -> list[Any] | None:
        """Return every rank's value on rank 0, by rank, and None elsewhere."""
        if self.alone:
            return [value]
        out: list[Any] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object(value, out)
        return out

    def told(self, value: Any) -> Any:
        """Return rank 0's value (anything that pickles)."""
        if self.alone:
            return value
        box = [value if self.rank == 0 else None]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def from_first(self, value: Tensor) -> Tensor:
        """Return rank 0's value; ``value`` gives the shape and is overwritten elsewhere."""
        if not self.alone:
            dist.broadcast(value, 0)
        return value

    def wait(self) -> None:
        """Wait until every rank has come here."""
        if not self.alone:
            dist.barrier()

    def summed(self, value: Tensor) -> Tensor:
        """Return the sum over ranks of partial values; its gradient goes to each partial value as it is.

        For values that every rank then treats alike, so that every rank's gradient is the gradient.
        """
        return value if self.alone else _Summed.apply(value)  # pyright: ignore[reportReturnType]

    def handed_out(self, value: Tensor) -> Tensor:
        """Return ``value``, which is the same on every rank; the gradients that its uses give are added over ranks."""
        return value if self.alone else _HandedOut.apply(value)  # pyright: ignore[reportReturnType]

    def _reduced(self, value: Tensor, how: Any) -> Tensor:
        value = value.detach()
        if self.alone:
            return value
        out = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out, how)
        return out


#: One process on its own.
ALONE = Ranks()


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        out = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _HandedOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        out = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return out
