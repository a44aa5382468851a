"""What a study is asked about: an SAE, held-out data, and perhaps the language model it reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_lightning.activations import Harvester
from sae_lightning.core import ActivationBatch, UserError
from sae_lightning.lm import FrozenLM
from sae_lightning.sae import SparseAutoencoder

# Numbers in one chunk's [rows, d_sae] pre-activations: 256 MB in float32.
_PRE_ACTS = 1 << 26


@dataclass(frozen=True)
class Subject:
    """An SAE and the data to ask about.

    sae:       reads *raw* activations: an export that was loaded, or a trained one folded.
    lm:        the frozen language model; None where activations came from a file.
    harvester: turns window numbers into activations and the keep mask.
    windows:   numbers of held-out windows, in the harvester's ``Windows``.
    rows:      raw activations [n, d_in] (a transcoder's: an ActivationBatch with its targets), already masked. Taken
               in place of harvesting ``windows`` where a study asks about rows alone.
    """

    sae: SparseAutoencoder
    lm: FrozenLM | None = None
    harvester: Harvester | None = None
    windows: Sequence[int] = ()
    rows: Tensor | ActivationBatch | None = None

    @property
    def has_lm(self) -> bool:
        """Whether next-token losses can be measured."""
        return self.lm is not None and self.harvester is not None and len(self.windows) > 0

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    def n_steps(self) -> int:
        """Return how many batches ``row_batches`` will give (an upper bound where rows are harvested)."""
        rows = self._given()
        return -(-len(rows) // self._chunk()) if rows is not None else len(self.windows)

    def row_batches(self) -> Iterator[ActivationBatch]:
        """Yield the masked rows, raw, float32, on the SAE's device, in chunks that bound memory."""
        chunk = self._chunk()
        for batch in self._sources():
            for start in range(0, len(batch), chunk):
                part = slice(start, start + chunk)
                x = batch.x[part].to(self.device, torch.float32)
                y = x if batch.y is batch.x else batch.y[part].to(self.device, torch.float32)
                yield ActivationBatch(x=x, y=y, token_index=batch.token_index[part])

    def _chunk(self) -> int:
        return max(64, min(4096, _PRE_ACTS // self.sae.W_dec.shape[0]))

    def _given(self) -> ActivationBatch | None:
        if self.rows is None or isinstance(self.rows, ActivationBatch):
            return self.rows
        return ActivationBatch(x=self.rows, y=self.rows, token_index=torch.arange(len(self.rows)))

    def _sources(self) -> Iterator[ActivationBatch]:
        given = self._given()
        if given is not None:
            yield given
        elif self.harvester is not None and len(self.windows) > 0:
            step = max(1, self.harvester.micro_batch)
            for start in range(0, len(self.windows), step):
                yield self.harvester.rows(self.windows[start : start + step])
        else:
            raise UserError("held-out data: none was given; give rows, or a harvester and at least one window")


@contextmanager
def inference(sae: SparseAutoencoder) -> Iterator[None]:
    """Run the SAE as it is used after training (thresholds, no gradients), then put its mode back."""
    was_training = sae.training
    sae.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        sae.train(was_training)
