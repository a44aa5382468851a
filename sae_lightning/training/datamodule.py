"""The LightningDataModule: an endless activation source handed out in stretches, resumable exactly."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch

from sae_lightning.activations import ActivationSource
from sae_lightning.training.stretch import Stretch


class _Stretches:
    """The rest of the run as an iterable of stretches, all of which pull from the one source.

    It has no length: how many steps a stretch holds is a matter of the clock. Lightning then fetches one ahead, which
    is harmless, since a stretch reads nothing until it is worked on.
    """

    def __init__(self, source: ActivationSource) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Stretch]:
        batches = iter(self.source)
        while True:
            yield Stretch(batches)


class ActivationDataModule(L.LightningDataModule):
    """Streams batches of activations from any ActivationSource, a ``Stretch`` of them for each Trainer step.

    Its state is the source's: cursor, buffer content and generators after the last batch handed out, so that a
    resumed run sees the very batches that the unbroken one would have seen. n_batches: how many the run will read.
    """

    def __init__(self, source: ActivationSource, n_batches: int) -> None:
        super().__init__()
        self.source = source
        self.n_batches = n_batches

    def train_dataloader(self) -> _Stretches:
        return _Stretches(self.source)

    def transfer_batch_to_device(self, batch: Stretch, device: torch.device, dataloader_idx: int) -> Stretch:
        batch.device = device
        return batch

    def on_exception(self, exception: BaseException) -> None:
        # What SAEModule sets for a run and takes back in its teardown, which Lightning leaves out when a run fails.
        torch.set_flush_denormal(False)

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.source.load_state_dict(state_dict)
