"""The LightningDataModule: an endless activation source handed out in stretches, resumable exactly."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch

from sae_lightning.activations import ActivationSource
from sae_lightning.core import ALONE, Ranks, UserError
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

    ranks: processes that hand out parts of the same batches. The checkpoint has the state of every one's source (once,
    where all of them cut one stream), so a run goes on with as many as it began with: UserError for another number.
    sharded: every process reads the whole stream, and its part of the checkpoint has its own state.
    """

    def __init__(
        self, source: ActivationSource, n_batches: int, ranks: Ranks = ALONE, *, sharded: bool = False
    ) -> None:
        super().__init__()
        self.source = source
        self.n_batches = n_batches
        self.ranks = ranks
        self.sharded = sharded

    def train_dataloader(self) -> _Stretches:
        return _Stretches(self.source)

    def transfer_batch_to_device(self, batch: Stretch, device: torch.device, dataloader_idx: int) -> Stretch:
        batch.device = device
        return batch

    def on_exception(self, exception: BaseException) -> None:
        # What SAEModule sets for a run and takes back in its teardown, which Lightning leaves out when a run fails.
        torch.set_flush_denormal(False)

    def state_dict(self) -> dict[str, Any]:
        own = self.source.state_dict()
        if self.ranks.alone:
            return own
        once = self.sharded or getattr(self.source, "one_stream", False)
        parts = [own] if once else self.ranks.to_first(own)
        return {"ranks": self.ranks.world, "parts": parts or []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        world = state_dict.get("ranks", 1)
        if world != self.ranks.world:
            raise UserError(
                f"trainer.devices={self.ranks.world}: the checkpoint is that of {world} process(es), each at its own "
                f"place in the data; go on with trainer.devices={world}, or start a new run"
            )
        if self.ranks.alone:
            self.source.load_state_dict(state_dict)
            return
        parts = state_dict["parts"]
        self.source.load_state_dict(parts[0] if len(parts) == 1 else parts[self.ranks.rank])
