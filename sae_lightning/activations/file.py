"""Activations from a file: the whole pipeline without a language model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_lightning.activations.arrays import ActivationFile
from sae_lightning.activations.source import StopRequested, check_same_stream
from sae_lightning.core import ActivationBatch, Permutation, UserError, derive_seed


class FileSource:
    """Endless batches [batch_size, d] of a file's rows; every epoch is a permutation of its own.

    Row number p of the stream is ``perm_e[p mod n]``, ``e = p // n``: batches run across the ends of epochs, and no
    row is lost or repeated within one. The state is p. token_index is the row's number in the file. rows: (first, last)
    limits the source to a part of the file, ``n`` rows (the rest may be held out).
    Raises UserError as ``ActivationFile`` does, for a file with fewer rows than a batch, and for a width that is not
    ``d_in`` where one is given.
    """

    def __init__(
        self,
        path: str | Path,
        batch_size: int,
        seed: int = 0,
        *,
        d_in: int | None = None,
        key: str | None = None,
        rows: tuple[int, int] | None = None,
        device: str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size}: must be at least 1")
        self.file = ActivationFile(path, key)
        self.first, last = (0, self.file.n) if rows is None else rows
        self.n = last - self.first
        if self.n < batch_size:
            raise UserError(
                f"{self.file.path}: has {self.n} rows, fewer than data.batch_size={batch_size}; lower the batch "
                "size or give more rows"
            )
        if d_in is not None and self.file.d != d_in:
            raise UserError(f"{self.file.path}: rows have width {self.file.d}, must have {d_in}; give the right file")
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.d_in = self.d_out = self.file.d
        self._position = 0
        self._stop = False
        self._permutations: dict[int, Permutation] = {}

    def __iter__(self) -> Iterator[ActivationBatch]:
        while True:
            yield self.next()

    def next(self) -> ActivationBatch:
        """Return the next batch; raises StopRequested after ``request_stop``."""
        if self._stop:
            raise StopRequested
        numbers = self._rows_at(self._position, self._position + self.batch_size)
        x = self.file.rows(numbers).to(self.device)
        batch = ActivationBatch(x=x, y=x, token_index=torch.from_numpy(numbers).to(self.device))
        self._position += self.batch_size
        return batch

    def sample(self, n: int) -> torch.Tensor:
        """Return up to ``n`` rows, float32, for normalisation and initialisation; seeded, and moves nothing."""
        order = Permutation(self.n, derive_seed(self.seed, "activations", "sample"))
        return self.file.rows(self.first + order[np.arange(min(n, self.n))]).to(self.device)

    def rows_between(self, first: int, last: int) -> torch.Tensor:
        """Return rows ``first`` to ``last`` of this part of the file in file order, float32 (cut to what there is)."""
        numbers = np.arange(max(0, first), min(last, self.n))
        return self.file.rows(self.first + numbers).to(self.device)

    def snapshot(self) -> int:
        """Return the place in the stream."""
        return self._position

    def state_dict(self, snapshot: int | None = None) -> dict[str, Any]:
        """Return the place (now, or an earlier ``snapshot``) as primitives."""
        position = self._position if snapshot is None else snapshot
        return {"position": position, "stream": self._description()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on from ``state``. UserError when it is of another file, batch size or seed."""
        check_same_stream(state.get("stream"), self._description())
        self._position = int(state["position"])

    def request_stop(self) -> None:
        """Let the iterator raise StopRequested before the next batch. Safe in a signal handler."""
        self._stop = True

    def resume(self) -> None:
        """Take back ``request_stop``."""
        self._stop = False

    def close(self) -> None:
        """Nothing runs beside the caller here."""

    def _rows_at(self, first: int, last: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(first, last), self.n)
        out = np.empty(last - first, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self.first + self._permutation(int(epoch))[places[here]]
        return out

    def _permutation(self, epoch: int) -> Permutation:
        if epoch not in self._permutations:
            seed = derive_seed(self.seed, "activations", "file", epoch)
            kept = {e: p for e, p in self._permutations.items() if e >= epoch - 1}
            self._permutations = {**kept, epoch: Permutation(self.n, seed)}
        return self._permutations[epoch]

    def _description(self) -> dict[str, Any]:
        return {
            "kind": "file",
            "file": self.file.identity(),
            "rows": [self.first, self.first + self.n],
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
