"""When a feature counts as dead: in tokens, so that it means the same at every batch size."""

from typing import Annotated, Literal

import lightning as L
from annotated_types import Ge

from sae_lightning.core import UserError
from sae_lightning.training.callbacks.base import source_of
from sae_lightning.training.module import SAEModule


class DeadFeatures(L.Callback):
    """A feature is dead once it has been active on none of the last ``after_tokens`` training tokens.

    after_tokens: tokens without firing; ``auto`` is 10 million (Gao et al. 2024), or a tenth of the run where the
        run is shorter than 100 million tokens: a run that ends before anything can be called dead would never revive
        anything.
    n_batches_to_dead: the same in batches (default 200 in the BatchTopK notes), for configs that come from there; wins
        over after_tokens when given.

    The policy alone: with it, the module has each lane count after every optimiser step.
    """

    def __init__(
        self,
        after_tokens: Annotated[int, Ge(1)] | Literal["auto"] = "auto",
        n_batches_to_dead: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        if n_batches_to_dead is not None and after_tokens != "auto":
            raise UserError(
                f"dead_features: after_tokens={after_tokens} and n_batches_to_dead={n_batches_to_dead} say the same "
                "thing twice; give one of them"
            )
        self.after_tokens = after_tokens
        self.n_batches_to_dead = n_batches_to_dead

    def threshold(self, batch_size: int, total_steps: int) -> int:
        """Return the threshold in tokens for a run of ``total_steps`` batches."""
        if self.n_batches_to_dead is not None:
            return self.n_batches_to_dead * batch_size
        if isinstance(self.after_tokens, int):
            return self.after_tokens
        return min(10_000_000, max(batch_size, batch_size * total_steps // 10))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SAEModule)
        batch_size = source_of(trainer).batch_size
        for _, lane in pl_module.each_lane():
            lane.dead_after_tokens = self.threshold(batch_size, pl_module.total_steps)
            lane.counts_tokens = True
