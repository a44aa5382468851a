"""The LightningDataModule: an endless activation source cut to the run's number of batches, resumable exactly."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch

from sae_lightning.activations import ActivationSource
from sae_lightning.core import ActivationBatch


class _Batches:
    """The rest of the run as an iterable with a length.

    The length matters: without one Lightning fetches one batch ahead, and a checkpoint would then hold the state
    after a batch that was never trained on.
    """

    def __init__(self, source: ActivationSource, n_batches: int) -> None:
        self.source = source
        self.n_batches = n_batches

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[ActivationBatch]:
        return iter(self.source)


class ActivationDataModule(L.LightningDataModule):
    """Streams batches of activations from any ActivationSource.

    Its state is the source's: cursor, buffer content and generators after the last batch handed out, so that a
    resumed run sees the very batches that the unbroken one would have seen.
    """

    def __init__(self, source: ActivationSource, n_batches: int) -> None:
        super().__init__()
        self.source = source
        self.n_batches = n_batches

    def train_dataloader(self) -> _Batches:
        return _Batches(self.source, self.n_batches)

    def transfer_batch_to_device(
        self, batch: ActivationBatch, device: torch.device, dataloader_idx: int
    ) -> ActivationBatch:
        if batch.x.device == device:
            return batch
        x = batch.x.to(device, non_blocking=True)
        y = x if batch.y is batch.x else batch.y.to(device, non_blocking=True)
        return ActivationBatch(x=x, y=y, token_index=batch.token_index)

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.source.load_state_dict(state_dict)
