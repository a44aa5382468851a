"""Activations from a file: the whole pipeline without a language model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_lightning.activations.arrays import ActivationFile
from sae_lightning.activations.numbered import NumberedSource
from sae_lightning.core import Permutation, UserError, derive_seed

# Places whose rows are worked out at once: a permutation costs as much for a few as for thousands.
_AHEAD = 16_384


class FileSource(NumberedSource):
    """Endless batches [batch_size, d] of a file's rows; every epoch is a permutation of its own.

    Row number p of the stream is ``perm_e[p mod n]``, ``e = p // n``: batches run across the ends of epochs, and no
    row is lost or repeated within one. The state is p. token_index is the row's number in the file. rows: (first, last)
    limits the source to a part of the file, ``n`` rows (the rest may be held out). targets: a second file with what a
    transcoder is to write for each row, one for one.
    Raises UserError as ``ActivationFile`` does, for a file with fewer rows than a batch, for targets of another number
    of rows (stored under another mask of tokens), and for a width that is not
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
        targets: str | Path | None = None,
    ) -> None:
        super().__init__(batch_size, seed, device)
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
        self.targets = None if targets is None else ActivationFile(targets)
        if self.targets is not None and self.targets.n != self.file.n:
            raise UserError(
                f"data.targets={targets}: has {self.targets.n} rows and data.path={path} has {self.file.n}: the two "
                "were stored under different masks of tokens; store the sites that are read and written with one mask"
            )
        self.d_in = self.file.d
        self.d_out = self.d_in if self.targets is None else self.targets.d
        self._permutations: dict[int, Permutation] = {}
        self._known = 0, np.empty(0, dtype=np.int64)  # rows at the places from the first number on

    def _between(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        begin, known = self._known
        if not begin <= first <= last <= begin + len(known):
            begin, known = self._known = first, self._rows_at(first, max(last, first + _AHEAD))
        numbers = known[first - begin : last - begin]
        return self.file.rows(numbers), torch.from_numpy(numbers.copy())

    def sample(self, n: int) -> torch.Tensor:
        """Return up to ``n`` rows, float32, for normalisation and initialisation; seeded, and moves nothing."""
        order = Permutation(self.n, derive_seed(self.seed, "activations", "sample"))
        return self.file.rows(self.first + order[np.arange(min(n, self.n))]).to(self.device)

    def sample_targets(self, n: int) -> torch.Tensor | None:
        """Return what is to be written for the rows of ``sample(n)``; None where the rows themselves are."""
        order = Permutation(self.n, derive_seed(self.seed, "activations", "sample"))
        return None if self.targets is None else self._of_targets(order[np.arange(min(n, self.n))])

    def rows_between(self, first: int, last: int) -> torch.Tensor:
        """Return rows ``first`` to ``last`` of this part of the file in file order, float32 (cut to what there is)."""
        numbers = np.arange(max(0, first), min(last, self.n))
        return self.file.rows(self.first + numbers).to(self.device)

    def targets_between(self, first: int, last: int) -> torch.Tensor | None:
        """Return what is to be written for ``rows_between``; None where the rows themselves are."""
        return None if self.targets is None else self._of_targets(np.arange(max(0, first), min(last, self.n)))

    def _targets(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x if self.targets is None else self.targets.rows(index.cpu().numpy()).to(self.device)

    def _of_targets(self, numbers: np.ndarray) -> torch.Tensor:
        assert self.targets is not None
        return self.targets.rows(self.first + numbers).to(self.device)

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
            **({} if self.targets is None else {"targets": self.targets.identity()}),
            "rows": [self.first, self.first + self.n],
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
