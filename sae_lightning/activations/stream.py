"""Activations straight from the language model, through a shuffle buffer."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sae_lightning.activations.buffer import ShuffleBuffer, Snapshot
from sae_lightning.activations.harvest import Check, Harvester
from sae_lightning.activations.prefetch import Prefetch
from sae_lightning.activations.share import TokenShare
from sae_lightning.activations.source import StopRequested, check_same_stream, part_of_batch
from sae_lightning.core import ALONE, ActivationBatch, Ranks, UserError, derive_seed
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
    (rows, rows wanted) while the buffer fills. ahead: harvest the next refill in a thread while batches are handed out,
    for a language model that has a device of its own; batches and states are the same.
    Raises UserError for a corpus smaller than a batch and a mask that leaves nothing.

    Spread over processes, each has a buffer of its own, of its share of the rows, and harvests every ``world``-th
    micro-batch of the order for it: no window goes through the language model twice. However many rows the mask leaves
    one of them, each is handed as many as it asks for, and at the same step all have read the budget.
    """

    one_stream = False

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
        ahead: bool = False,
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
        self.ranks = ALONE
        self._state = self._empty()
        self._stop = False
        self._prefetch = Prefetch(self._parts, self._check_stop) if ahead else None

    def spread(self, ranks: Ranks) -> None:
        """Harvest this process's windows alone, into a buffer of its share."""
        part_of_batch(self.batch_size, ranks)
        if ranks.alone:
            return
        whole, world = self.buffer, ranks.world
        self.ranks = ranks
        self.buffer = ShuffleBuffer(
            whole.capacity // world,
            self.batch_size // world,
            mix=whole.mix,
            seed=derive_seed(whole.seed, "activations", "rank", ranks.rank),
            slack=whole.slack,
            budget=None if whole.budget is None else whole.budget // world,
        )
        self._state = self._empty()

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
            if self._prefetch is not None:
                self._prefetch.begin(state.position, self.buffer.next_refill(state))
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
        """End the thread that harvests ahead, where there is one."""
        if self._prefetch is not None:
            self._prefetch.end()

    def _check_stop(self) -> None:
        if self._stop:
            raise StopRequested

    def _harvest(self, state: Snapshot) -> Iterator[tuple[ActivationBatch, int]]:
        """Yield micro-batches from ``state.position`` on, each with the position after it, and tell how far it is."""
        found, wanted = state.remaining, self.buffer.wanted(state)
        level = logging.DEBUG if state.handed else logging.INFO
        logger.log(level, "filling the activation buffer: %d rows of %d", found, wanted)
        ahead = self._prefetch
        parts = self._parts(state.position, self._check_stop) if ahead is None else ahead.parts(state.position)
        for rows, position in parts:
            found += len(rows)
            if self.on_fill is not None:
                self.on_fill(min(found, wanted), wanted)
            yield rows, position

    def _parts(self, position: int, check: Check) -> Iterator[tuple[ActivationBatch, int]]:
        """Yield the micro-batches from ``position`` on that have rows, each with the position after it."""
        size = self.harvester.micro_batch
        barren = 0
        while True:
            first = position + self.ranks.rank * size
            numbers = self.order.take(np.arange(first, first + size))
            rows = self.share.rows(self.harvester.rows(numbers, check))
            position += self.ranks.world * size
            barren = 0 if len(rows) else barren + size
            if barren >= max(self.order.n_windows, 64 * size):
                raise UserError(
                    f"mask: leaves no token of {barren} windows in a row; loosen the mask, raise data.share or check "
                    "the text"
                )
            if len(rows):
                yield rows, position

    def _description(self) -> dict[str, Any]:
        ranks = {} if self.ranks.alone else {"ranks": [self.ranks.rank, self.ranks.world]}
        return {
            **ranks,
            "kind": "lm",
            **self.harvester.description(),
            "order_seed": self.order.seed,
            "batch_size": self.batch_size,
            "buffer_tokens": self.buffer.capacity * self.ranks.world,
            "mix": self.buffer.mix,
            "seed": self.buffer.seed,
            "share": 1.0 if self.share.share == 1 else [self.share.share, self.share.seed],
        }
