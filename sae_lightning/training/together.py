"""What the processes of a run add up after each backward pass, in one collective."""

import signal
from collections.abc import Sequence

import torch
from torch import Tensor

from sae_lightning.core import ActivationBatch, Ranks, WindowBatch
from sae_lightning.training.lane import Lane

#: Signals that end a run, in the order in which their counts stand in what is sent.
STOPPING = (signal.SIGINT, signal.SIGTERM)
# On an accelerator, reading whether somebody was asked to stop waits for it: done every so many steps.
_LOOK_EVERY = 10


class Together:
    """One sum over ranks a step: gradients, figures, firing counts, and who has been asked to stop.

    Data parallel (``sharded`` False): ranks hold different rows. Each one's gradient is that of its own mean loss, so
    it counts for its share ``n_r / n`` of the rows: the sum is the gradient of the mean over the whole batch, and every
    rank makes the same step with it. Sharded: ranks hold different features of the same rows; gradients are complete,
    and what is summed over features in the figures is added up. Those of weights that all hold are averaged: they are
    alike but for a device's rounding, which would part the weights in time.

    The sum has the same bits on every rank, and so have the weights after it.
    """

    def __init__(self, ranks: Ranks, sharded: bool = False) -> None:
        self.ranks = ranks
        self.sharded = sharded
        #: The signal that this process was sent, and the one that some rank was sent (the same on every rank).
        self.received: int | None = None
        self.stop: int | None = None
        self._memory: Tensor | None = None

    def rows(self, batch: ActivationBatch) -> int:
        """Return the rows of the whole batch, of which ``batch`` is this rank's part. Sources cut batches evenly."""
        if self.ranks.alone or self.sharded:
            return len(batch)
        if isinstance(batch, WindowBatch):  # a mask leaves every window another number
            return max(1, int(self.ranks.sum(torch.tensor(len(batch), device=batch.x.device))))
        return len(batch) * self.ranks.world

    @torch.no_grad()
    def add_up(self, lanes: Sequence[Lane], own_rows: int, rows: int, step: int) -> None:
        """Replace gradients, figures and counts of the lanes by those of the whole batch. step: steps done before."""
        if self.ranks.alone:
            return
        weight = 1.0 / self.ranks.world if self.sharded else own_rows / rows
        figures = [lane.figures.parts(weight, sharded=self.sharded) for lane in lanes]
        stops = figures[0].new_tensor([float(self.received == number) for number in STOPPING])
        parts: list[Tensor] = [*figures, stops]
        if not self.sharded:
            parts += [_counts(lane) for lane in lanes]
        parameters = [
            parameter
            for lane in lanes
            for name, parameter in lane.sae.named_parameters()
            if parameter.requires_grad and (not self.sharded or name in lane.sae.without_features)
        ]
        flat = self._flat(parts, parameters)
        views = _views(flat, [*parts, *parameters])
        for view, part in zip(views, parts, strict=False):
            view.copy_(part)
        for view, parameter in zip(views[len(parts) :], parameters, strict=True):
            if parameter.grad is None or not own_rows:
                view.zero_()  # the mean over no rows is no number
            else:
                torch.mul(parameter.grad, weight, out=view)
            parameter.grad = view
        if not own_rows:
            for view in views[: len(figures)]:
                view.zero_()
        self.ranks.sum_(flat)
        for number, lane in enumerate(lanes):
            # Copies: the memory is used again, and a figure is read later.
            counts = None if self.sharded else views[len(figures) + 1 + number].to(torch.int64)
            lane.figures.take(views[number].clone(), counts)
        self._look(views[len(figures)], step)

    def _flat(self, parts: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
        size = sum(value.numel() for value in (*parts, *parameters))
        dtype = max((value.dtype for value in (*parts[:1], *parameters)), key=lambda kind: kind.itemsize)
        like = parts[0]
        memory = self._memory
        if memory is None or len(memory) != size or memory.device != like.device or memory.dtype != dtype:
            memory = self._memory = torch.empty(size, dtype=dtype, device=like.device)
        return memory

    def _look(self, stops: Tensor, step: int) -> None:
        if stops.device.type != "cpu" and (step + 1) % _LOOK_EVERY:
            return
        for number, count in zip(STOPPING, stops.tolist(), strict=True):
            if count:
                self.stop = number


def _counts(lane: Lane) -> Tensor:
    counts = lane.figures.counts
    assert counts is not None, "add_up() needs a step before it"
    return counts


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return consecutive pieces of ``flat`` in the shape of each tensor, its memory in the same order."""
    out: list[Tensor] = []
    begin = 0
    for value in like:
        piece = flat[begin : begin + value.numel()]
        turned = value.ndim == 2 and not value.is_contiguous() and value.t().is_contiguous()
        out.append(piece.view(value.t().shape).t() if turned else piece.view(value.shape))
        begin += value.numel()
    return out
