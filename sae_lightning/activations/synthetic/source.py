"""A synthetic model as a source of batches, and its held-out rows."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.activations.numbered import NumberedSource
from sae_lightning.activations.synthetic.planted import BLOCK_ROWS, HELDOUT, PlantedModel

TRAIN = "train"
_SAMPLE = "sample"


class SyntheticSource(NumberedSource):
    """Endless batches [batch_size, hidden_dim] of a synthetic model's training stream; no row comes twice.

    Row p of the stream is row ``p mod 1024`` of block ``p // 1024`` under ``seed``; the state is p, and token_index is
    p too. Held-out rows are a stream of their own (``SyntheticRows``). Raises UserError for a batch size below 1.
    """

    def __init__(self, model: PlantedModel, batch_size: int, seed: int = 0, device: str = "cpu") -> None:
        super().__init__(batch_size, seed, device)
        self.model = model
        self.d_in = self.d_out = model.hidden_dim
        self._rows = _Rows(model, TRAIN, seed)

    def _between(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        return self._rows.between(first, last), torch.arange(first, last)

    def sample(self, n: int) -> Tensor:
        """Return ``n`` rows, float32, for normalisation and initialisation; seeded, and moves nothing."""
        return _Rows(self.model, _SAMPLE, self.seed).between(0, n).to(self.device)

    def _description(self) -> dict[str, Any]:
        return {
            "kind": "synthetic",
            "model": self.model.fingerprint,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }


class SyntheticRows:
    """Held-out rows by number: ``n`` rows, a whole number of blocks, of the stream that no training reads.

    The same rows for every run on the model: their seed is not the run's.
    """

    def __init__(self, model: PlantedModel, n_blocks: int = 1 << 20) -> None:
        self.model = model
        self.n = n_blocks * BLOCK_ROWS
        self.d_in = model.hidden_dim

    def rows_between(self, first: int, last: int) -> Tensor:
        """Return rows ``first`` to ``last`` (cut to what there is)."""
        return _Rows(self.model, HELDOUT, 0).between(max(0, first), min(last, self.n))


class _Rows:
    """A stream's rows by number; the last block is kept, since the next batch often begins in it."""

    def __init__(self, model: PlantedModel, stream: str, seed: int) -> None:
        self.model, self.stream, self.seed = model, stream, seed
        self._kept: tuple[int, Tensor] | None = None

    def between(self, first: int, last: int) -> Float[Tensor, "n hidden_dim"]:
        parts = [self.model.directions.new_empty(0, self.model.hidden_dim)]
        for number in range(first // BLOCK_ROWS, -(-last // BLOCK_ROWS)):
            begin = number * BLOCK_ROWS
            parts.append(self._block(number)[max(0, first - begin) : last - begin])
        return torch.cat(parts)

    def _block(self, number: int) -> Tensor:
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, self.model.block(number, self.stream, self.seed)[0])
        return self._kept[1]
