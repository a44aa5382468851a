"""Activations straight from the language model, through a shuffle buffer."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sae_lightning.activations.buffer import ShuffleBuffer, Snapshot
from sae_lightning.activations.harvest import Harvester
from sae_lightning.activations.share import TokenShare
from sae_lightning.activations.source import StopRequested, check_same_stream
from sae_lightning.core import ActivationBatch, UserError
from sae_lightning.tokens.order import EpochOrder

logger = logging.getLogger(__name__)


class StreamSource:
    """Endless batches [batch_size, d] of the windows in ``order``: the corpus repeats, reshuffled each epoch.

    Windows are read ``harvester.micro_batch`` at a time, always at the same places of the stream, so that the LM sees
    the same shapes in every run. The whole state is one ``Snapshot`` (rows left in the buffer, place in the stream,
    generator), replaced in a single assignment when a batch is handed out; a state taken at any other moment - in a
    signal handler, in another thread, while the LM fills the buffer - is the one after the last batch.

    buffer_tokens: capacity in rows. mix: share that stays at a refill. budget: rows the run will ask for, see
    ``ShuffleBuffer``. share, share_seed: which tokens take part, see ``TokenShare``. ``on_fill``, where set, is told
    (rows, rows wanted) while the buffer fills.
    Raises UserError for a corpus smaller than a batch and a mask that leaves nothing.
    """

    def __init__(
        self,
        harvester: Harvester,
        order: EpochOrder,
        *,
        batch_size: int,
        buffer_tokens: int = 32_768,
        mix: float = 0.5,
        seed: int = 0,
        budget: int | None = None,
        share: float = 1.0,
        share_seed: int = 0,
    ) -> None:
        if harvester.mask is not None and not harvester.mask.fitted:
            raise ValueError("the harvester's mask is not fitted: run calibrate first")
        windows = harvester.windows
        if windows.n_tokens < batch_size:
            raise UserError(
                f"data.batch_size={batch_size}: the {windows.split} split has only {windows.n_tokens} tokens, fewer "
                "than one batch; lower the batch size or give more text"
            )
        self.harvester = harvester
        self.order = order
        self.batch_size = batch_size
        self.d_in = harvester.d_in
        self.d_out = harvester.d_out
        slack = harvester.micro_batch * windows.context_length
        self.buffer = ShuffleBuffer(buffer_tokens, batch_size, mix=mix, seed=seed, slack=slack, budget=budget)
        self.share = TokenShare(share, share_seed)
        self.on_fill: Callable[[int, int], None] | None = None
        self._state = self._empty()
        self._stop = False

    def _empty(self) -> Snapshot:
        """Return the state before the first row."""
        return self.buffer.empty(self.d_in, self.d_out, same=self.harvester.same_sites)

    def __iter__(self) -> Iterator[ActivationBatch]:
        while True:
            yield self.next()

    def next(self) -> ActivationBatch:
        """Return the next batch; raises StopRequested after ``request_stop``."""
        self._check_stop()
        state = self._state
        if self.buffer.needs_refill(state):
            state = self.buffer.refill(state, self._harvest(state))
        batch, state = self.buffer.draw(state)
        self._state = state
        return batch

    def snapshot(self) -> Snapshot:
        """Return the state after the last batch handed out: constant time, nothing is copied."""
        return self._state

    def state_dict(self, snapshot: Snapshot | None = None) -> dict[str, Any]:
        """Return the state (now, or at an earlier ``snapshot``) as tensors and primitives, buffer included."""
        state = self._state if snapshot is None else snapshot
        return {**self.buffer.pack(state), "stream": self._description()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on from ``state``. UserError when it is of another stream (text, sites, mask, sizes or seed)."""
        check_same_stream(state.get("stream"), self._description())
        self._state = self.buffer.unpack(state, self.harvester.device)

    def request_stop(self) -> None:
        """Let the iterator raise StopRequested before the next LM micro-batch. Safe in a signal handler."""
        self._stop = True

    def resume(self) -> None:
        """Take back ``request_stop``."""
        self._stop = False

    def close(self) -> None:
        """Nothing runs beside the caller here."""

    def _check_stop(self) -> None:
        if self._stop:
            raise StopRequested

    def _harvest(self, state: Snapshot) -> Iterator[tuple[ActivationBatch, int]]:
        """Yield micro-batches from ``state.position`` on, each with the position after it."""
        size = self.harvester.micro_batch
        position, found, barren = state.position, state.remaining, 0
        wanted = self.buffer.wanted(state)
        level = logging.DEBUG if state.handed else logging.INFO
        logger.log(level, "filling the activation buffer: %d rows of %d", found, wanted)
        while True:
            numbers = self.order.take(np.arange(position, position + size))
            rows = self.share.rows(self.harvester.rows(numbers, self._check_stop))
            position += size
            barren = 0 if len(rows) else barren + size
            if barren >= max(self.order.n_windows, 64 * size):
                raise UserError(
                    f"mask: leaves no token of {barren} windows in a row; loosen the mask, raise data.share or check "
                    "the text"
                )
            found += len(rows)
            if self.on_fill is not None:
                self.on_fill(min(found, wanted), wanted)
            if len(rows):
                yield rows, position

    def _description(self) -> dict[str, Any]:
        mask = self.harvester.mask
        return {
            "kind": "lm",
            "windows": self.harvester.windows.identity(),
            "read": list(self.harvester.sites.read),
            "write": list(self.harvester.sites.write),
            "dtype": str(self.harvester.dtype),
            "mask": None if mask is None else mask.to_dict(),
            "micro_batch": self.harvester.micro_batch,
            "order_seed": self.order.seed,
            "batch_size": self.batch_size,
            "buffer_tokens": self.buffer.capacity,
            "mix": self.buffer.mix,
            "seed": self.buffer.seed,
            "share": 1.0 if self.share.share == 1 else [self.share.share, self.share.seed],
        }
