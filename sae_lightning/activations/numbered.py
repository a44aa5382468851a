"""Sources whose whole state is a place in a numbered stream of rows."""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lightning.activations.placed import PlacedSource
from sae_lightning.activations.source import StopRequested, part_of_batch
from sae_lightning.core import ActivationBatch, Ranks, UserError


class NumberedSource(PlacedSource):
    """Endless batches of rows 0, 1, 2, ... of a stream that gives any row by its number; the state is the next number.

    Raises UserError for a batch size below 1, and for a saved state of another stream (``_description``).
    """

    d_in: int
    d_out: int
    one_stream = True

    def __init__(self, batch_size: int, seed: int, device: str = "cpu") -> None:
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size}: must be at least 1")
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self._part = slice(0, batch_size)

    def spread(self, ranks: Ranks) -> None:
        """Hand out this process's rows of every batch: together the processes read what one would."""
        self._part = part_of_batch(self.batch_size, ranks)

    @abstractmethod
    def sample(self, n: int) -> Float[Tensor, "n d_in"]:
        """Return up to ``n`` rows, float32, for normalisation and initialisation; seeded, and moves nothing."""

    @abstractmethod
    def _between(self, first: int, last: int) -> tuple[Float[Tensor, "n d_in"], Int[Tensor, "n"]]:
        """Return rows ``first`` to ``last - 1`` of the stream, float32, and their token_index."""

    def _targets(self, x: Float[Tensor, "n d_in"], index: Int[Tensor, "n"]) -> Float[Tensor, "n d_out"]:
        """Return what is to be written for rows ``x`` with this token_index."""
        return x

    def __iter__(self) -> Iterator[ActivationBatch]:
        while True:
            yield self.next()

    def next(self) -> ActivationBatch:
        """Return the next batch; raises StopRequested after ``request_stop``."""
        if self._stop:
            raise StopRequested
        first = self._position
        rows = self._between(first + self._part.start, first + self._part.stop)
        x, index = (value.to(self.device) for value in rows)
        self._position = first + self.batch_size
        return ActivationBatch(x=x, y=self._targets(x, index), token_index=index)
