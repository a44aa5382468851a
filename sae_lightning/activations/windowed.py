"""Whole windows from the language model: what an objective that is measured through the model trains on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sae_lightning.activations.harvest import Harvester, read_windows
from sae_lightning.activations.mask import real_tokens
from sae_lightning.activations.placed import PlacedSource
from sae_lightning.activations.source import StopRequested
from sae_lightning.core import ALONE, Ranks, UserError, WindowBatch
from sae_lightning.tokens.order import EpochOrder


class WindowSource(PlacedSource):
    """Endless ``WindowBatch`` es: ``batch_size // context_length`` windows each, in the order of the epochs.

    Tokens of a window belong together here, so nothing is shuffled but the windows, and a batch has as many rows as
    the mask leaves of them: ``batch_size`` counts positions. The residual stream at ``start`` comes with them, from
    which the rest of the model can be run again. Nothing is read ahead; the whole state is the place in the order.

    ranks: processes that share a batch; each reads every ``world``-th window of it.
    Raises UserError for a batch smaller than a window (for each rank), and a mask that leaves nothing.
    """

    def __init__(
        self,
        harvester: Harvester,
        order: EpochOrder,
        *,
        batch_size: int,
        start: str | None,
        ranks: Ranks = ALONE,
    ) -> None:
        if harvester.mask is not None and not harvester.mask.fitted:
            raise ValueError("the harvester's mask is not fitted: run calibrate first")
        length = harvester.windows.context_length
        self.n_windows = batch_size // length
        if not self.n_windows or self.n_windows % ranks.world:
            raise UserError(
                f"data.batch_size={batch_size}: an objective through the language model takes whole windows of "
                f"data.context_length={length} tokens, here {self.n_windows} for {ranks.world} process(es), and each "
                "needs the same number, at least one; change data.batch_size"
            )
        own = self.n_windows // ranks.world
        self.harvester = harvester.with_micro_batch(min(harvester.micro_batch, own))
        self.order = order
        self.batch_size = batch_size
        self.start = start
        self.ranks = ranks
        self.d_in, self.d_out = harvester.d_in, harvester.d_out

    def __iter__(self) -> Iterator[WindowBatch]:
        while True:
            yield self.next()

    def next(self) -> WindowBatch:
        """Return the next batch; raises StopRequested after ``request_stop``."""
        position = self._position
        for _ in range(max(1, self.order.n_windows // self.n_windows) + 1):
            numbers = self.order.take(np.arange(position, position + self.n_windows))
            batch = self._read(numbers[self.ranks.rank :: self.ranks.world])
            position += self.n_windows
            # Other ranks can't know that this one found nothing: together they go on with what there is.
            if len(batch) or not self.ranks.alone:
                self._position = position
                return batch
        raise UserError("mask: leaves no token of any window; loosen the mask or check the text")

    def _read(self, numbers: np.ndarray) -> WindowBatch:
        harvester, sites = self.harvester, self.harvester.sites
        wanted = list(dict.fromkeys((*sites.read, *sites.write, *filter(None, [self.start]))))
        tokens = harvester.windows.batch(numbers)
        parts: dict[str, list[torch.Tensor]] = {site: [] for site in wanted}
        for part in tokens.tokens.split(harvester.micro_batch):
            if self._stop:
                raise StopRequested
            for site, value in read_windows(harvester.lm, part, wanted, harvester.micro_batch).items():
                parts[site].append(value)
        read = {site: torch.cat(values) for site, values in parts.items()}
        x = torch.cat([read[site] for site in sites.read], dim=-1)
        y = x if harvester.same_sites else torch.cat([read[site] for site in sites.write], dim=-1)
        keep = real_tokens(tokens).to(x.device) if harvester.mask is None else harvester.mask.keep(tokens, x)
        rows = x[keep].float()
        return WindowBatch(
            x=rows,
            y=rows if y is x else y[keep].float(),
            token_index=tokens.token_index.to(x.device)[keep],
            windows=tokens,
            keep=keep,
            written=y,
            below=read[self.start] if self.start else None,
        )

    def _description(self) -> dict[str, Any]:
        return {
            "kind": "windows",
            **self.harvester.description(),
            "order_seed": self.order.seed,
            "batch_size": self.batch_size,
        }
