"""The stream of a run, read from a cache: the same batches, bit for bit, as from the language model."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.activations.buffer import ShuffleBuffer, Snapshot
from sae_lightning.activations.cache.ahead import Ahead
from sae_lightning.activations.cache.harvester import CachedHarvester
from sae_lightning.activations.share import TokenShare
from sae_lightning.activations.source import check_same_stream, part_of_batch
from sae_lightning.activations.stream import StreamSource
from sae_lightning.core import ActivationBatch, Ranks, UserError
from sae_lightning.core.recycled import Recycled
from sae_lightning.tokens.order import EpochOrder

# Batches that are ready before they are asked for; vectors that are checked at once, and how many such blocks the disk
# has been asked for.
_READY = 2
_BLOCK_BYTES = 16 << 20
_ANNOUNCED_BLOCKS = 4
_MOST_PARTS = 4096
_STRAGGLERS = 1 / 500


class CachedSource(StreamSource):
    """``StreamSource`` with a ``CachedHarvester``: the same arguments give the same batches.

    The shuffle buffer holds row numbers and no vectors, so a state is a few hundred kilobytes whatever the width. Two
    threads work ahead: one checks the windows of the next refill (which brings them from the disk into the page
    cache) and applies the mask; the other shuffles, gathers finished batches out of the maps and sends them to the
    device. Neither moves the state, which is always the one after the last batch handed out.

    Memory: two batches, twice the buffer's row numbers, and mapped pages of the windows that the buffer's
    rows are in: at ``mix`` 0.5 up to six times the buffer in the LM's dtype, however large the cache is, and shared
    with whoever else reads it.
    ``close`` ends the threads; so does dropping the source, and the end of the process.

    Spread over processes, each shuffles the same row numbers and gathers its own part of every batch: together they
    read what one process would.
    """

    one_stream = True

    _part: slice | None = None
    _ahead: "Ahead[tuple[ActivationBatch, Snapshot]] | None" = None

    @property
    def _cached(self) -> CachedHarvester:
        assert isinstance(self.harvester, CachedHarvester)
        return self.harvester

    def next(self) -> ActivationBatch:
        """Return the next batch; raises StopRequested after ``request_stop``."""
        self._check_stop()
        if self._ahead is None:
            part = self._part or slice(0, self.batch_size)
            batches = _batches(self._cached, self.order, self.buffer, self.share, self._state, part)
            self._ahead = Ahead(batches, _READY, "cached batches")
        batch, self._state = self._ahead.next(self._check_stop)
        if batch.x.is_cuda:
            # Made on the thread's stream: its memory must not be used again before this stream is through with it.
            for value in (batch.x, batch.y, batch.token_index):
                value.record_stream(torch.cuda.current_stream())
        return batch

    def spread(self, ranks: Ranks) -> None:
        """Hand out this process's rows of every batch."""
        self._part = part_of_batch(self.batch_size, ranks)

    def state_dict(self, snapshot: Snapshot | None = None) -> dict[str, Any]:
        """Return the state (now, or at an earlier ``snapshot``): numbers of the rows to come, place, generator."""
        state = super().state_dict(snapshot)
        return {"rows": state.pop("x").flatten(), **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on from ``state``. UserError when it is of another stream (text, sites, mask, sizes or seed)."""
        check_same_stream(state.get("stream"), self._description())
        self.close()
        rows = state["rows"].numpy()
        for cache in self._cached.distinct():
            cache.verify_rows(rows)  # the windows they lie in were checked by another process
        self._state = self.buffer.unpack({**state, "x": state["rows"][:, None]})

    def close(self) -> None:
        """End the threads; the next batch starts them again from the state."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _empty(self) -> Snapshot:
        """Return the state before the first row: x [n, 1] are row numbers of the cache."""
        empty = self.buffer.empty(0, 0)
        rows = torch.empty(0, 1, dtype=torch.int64)
        return replace(empty, x=rows, y=rows)

    def _description(self) -> dict[str, Any]:
        return {**super()._description(), "kind": "cache"}


def _batches(
    harvester: CachedHarvester,
    order: EpochOrder,
    buffer: ShuffleBuffer,
    share: TokenShare,
    state: Snapshot,
    part: slice,
) -> Iterator[tuple[ActivationBatch, Snapshot]]:
    """Yield ``part`` of each batch and the state after it, from ``state`` on."""
    size = harvester.micro_batch
    per_refill = buffer.capacity * (1 - buffer.mix) / share.share / (size * harvester.windows.context_length)
    depth = min(max(1, int(per_refill)), _MOST_PARTS)
    # Rows of a window are picked over several refills, the share that stays each time: until next to none is left.
    refills = 1 if buffer.mix == 0 else math.log(_STRAGGLERS) / math.log(buffer.mix)
    for cache in harvester.distinct():
        cache.keep_mapped(math.ceil((refills + 2) * max(1, per_refill)) * size)
    parts = Ahead(_parts(harvester, order, share, state.position, depth), depth, "checked windows")
    send = _Sender(harvester, part.stop - part.start)
    try:
        while True:
            if buffer.needs_refill(state):
                state = buffer.refill(state, _filled(parts, order.n_windows, size))
            places, after = buffer.advance(state)
            places = places[part]
            batch = send(state.x[places, 0].numpy(), state.token_index[places])
            state = after
            yield batch, state
    finally:
        parts.close()


def _parts(
    harvester: CachedHarvester, order: EpochOrder, share: TokenShare, position: int, a_refill: int
) -> Iterator[tuple[ActivationBatch, int]]:
    """Yield (row numbers as x [n, 1], position after them) of each micro-batch from ``position`` on; endless.

    A block of micro-batches at a time, no more than ``a_refill`` takes: narrow vectors would make it many epochs. The
    disk is asked for the next blocks while the vectors of this one are checked.
    """
    size = harvester.micro_batch
    caches = harvester.distinct()
    per_part = size * harvester.windows.context_length * sum(cache.d * cache.dtype.itemsize for cache in caches)
    block = size * max(1, min(a_refill, _BLOCK_BYTES // per_part))
    announced: deque[NDArray[np.int64]] = deque()
    while True:
        while len(announced) < _ANNOUNCED_BLOCKS:
            announced.append(_announced(harvester, order, position + len(announced) * block, block))
        numbers = announced.popleft()
        for cache in caches:
            cache.verify(numbers)
        rows, token_index, ends = harvester.kept(numbers)
        chosen = share.keep(token_index)
        for first in range(0, block, size):
            own = slice(ends[first], ends[first + size])
            x = torch.from_numpy(rows[own])[chosen[own]][:, None]
            yield ActivationBatch(x=x, y=x, token_index=token_index[own][chosen[own]]), position + first + size
        position += block


def _announced(harvester: CachedHarvester, order: EpochOrder, position: int, n: int) -> NDArray[np.int64]:
    """Return the windows at the next ``n`` places of the stream, and let the disk begin with them."""
    numbers = order.take(np.arange(position, position + n))
    for cache in harvester.distinct():
        cache.will_need(numbers)
    return numbers


def _filled(
    parts: "Ahead[tuple[ActivationBatch, int]]", n_windows: int, size: int
) -> Iterator[tuple[ActivationBatch, int]]:
    """Yield the parts that hold rows; UserError where a whole epoch holds none."""
    barren = 0
    while True:
        rows, position = parts.next()
        barren = 0 if len(rows) else barren + size
        if barren >= max(n_windows, 64 * size):
            raise UserError(f"mask: leaves no token of {barren} windows in a row; loosen the mask or raise data.share")
        if len(rows):
            yield rows, position


class _Sender:
    """Turns row numbers into a float32 batch on the device."""

    def __init__(self, harvester: CachedHarvester, batch_size: int) -> None:
        self.harvester = harvester
        self.device = harvester.device
        cuda = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if cuda else None
        self._same = harvester.same_sites
        # Memory that is touched for the first time costs more than the copy into it: buffers are used again.
        self._x = torch.empty(batch_size, harvester.d_in, dtype=harvester.dtype, pin_memory=cuda)
        self._wide = Recycled()
        if not self._same:
            self._y = torch.empty(batch_size, harvester.d_out, dtype=harvester.dtype, pin_memory=cuda)

    def __call__(self, rows: NDArray[np.int64], token_index: torch.Tensor) -> ActivationBatch:
        self.harvester.gather_read(rows, self._x)
        if not self._same:
            self.harvester.gather_write(rows, self._y)
        if self._stream is None:
            x = self._wide.take(tuple(self._x.shape)).copy_(self._x)
            y = x if self._same else self._wide.take(tuple(self._y.shape)).copy_(self._y)
            return ActivationBatch(x=x, y=y, token_index=token_index.to(self.device))
        with torch.cuda.stream(self._stream):
            # In the LM's dtype over the bus, widened there.
            x = self._x.to(self.device, non_blocking=True).float()
            y = x if self._same else self._y.to(self.device, non_blocking=True).float()
            batch = ActivationBatch(x=x, y=y, token_index=token_index.to(self.device, non_blocking=True))
        self._stream.synchronize()
        return batch
