"""Runs windows through the language model and keeps the rows that count."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.mask import MaskPolicy, real_tokens
from sae_lightning.core import ActivationBatch, Sites, TokenBatch, UserError

if TYPE_CHECKING:
    from sae_lightning.lm import FrozenLM
    from sae_lightning.tokens import Windows, WindowSample

Check = Callable[[], None]


class Harvester:
    """Windows in, rows out: x is the read sites concatenated, y the written ones (the same tensor when they are equal).

    Rows are in window order, in the LM's dtype and on its device. Exactly ``micro_batch`` windows go through the LM at
    once (see ``read_windows``), so what a window gives depends neither on the call nor on the windows beside it, and a
    stream can be cut anywhere. ``mask=None`` keeps every real token. Raises UserError for sites the LM does not have
    and for windows longer than its context.
    """

    def __init__(
        self,
        lm: "FrozenLM",
        sites: Sites,
        windows: "Windows | WindowSample",
        mask: MaskPolicy | None = None,
        micro_batch: int = 32,
    ) -> None:
        if micro_batch < 1:
            raise UserError(f"data.micro_batch={micro_batch}: must be at least 1")
        if windows.context_length > lm.n_ctx:
            raise UserError(
                f"data.context_length={windows.context_length}: must be at most {lm.n_ctx}, the context of {lm.name}"
            )
        self.lm = lm
        self.sites = sites
        self.windows = windows
        self.mask = mask
        self.micro_batch = micro_batch
        self.widths = tuple(lm.site_width(site) for site in sites.read)
        self.widths_out = tuple(lm.site_width(site) for site in sites.write)
        self.d_in = sum(self.widths)
        self.d_out = sum(self.widths_out)

    @property
    def device(self) -> torch.device:
        """Where rows are."""
        return self.lm.device

    @property
    def dtype(self) -> torch.dtype:
        """What rows are kept in: the LM's dtype."""
        return self.lm.dtype

    @property
    def same_sites(self) -> bool:
        """Whether targets are the inputs (an SAE or a crosscoder, not a transcoder)."""
        return self.sites.read == self.sites.write

    def description(self) -> dict[str, Any]:
        """Return what decides the rows that come of a window, in plain values."""
        return {
            "windows": self.windows.identity(),
            "read": list(self.sites.read),
            "write": list(self.sites.write),
            "dtype": str(self.dtype),
            "mask": None if self.mask is None else self.mask.to_dict(),
            "micro_batch": self.micro_batch,
        }

    def with_mask(self, mask: MaskPolicy | None) -> "Harvester":
        """Return a harvester of the same LM and windows under another mask."""
        return Harvester(self.lm, self.sites, self.windows, mask, self.micro_batch)

    def with_windows(self, windows: "Windows | WindowSample") -> "Harvester":
        """Return a harvester of the same LM and mask over other windows (the held-out ones)."""
        return Harvester(self.lm, self.sites, windows, self.mask, self.micro_batch)

    def with_micro_batch(self, micro_batch: int) -> "Harvester":
        """Return a harvester that passes another number of windows at once (its bits may differ in the last place)."""
        return Harvester(self.lm, self.sites, self.windows, self.mask, micro_batch)

    def rows(self, window_numbers: NDArray[np.integer] | Sequence[int], check: Check | None = None) -> ActivationBatch:
        """Return the kept rows of these windows in the LM's dtype. check: called before each micro-batch."""
        parts = [self._kept(*self._forward(part)) for part in self._micro_batches(window_numbers, check)]
        if len(parts) == 1:
            return parts[0]
        x = torch.cat([part.x for part in parts])
        y = x if self.same_sites else torch.cat([part.y for part in parts])
        return ActivationBatch(x=x, y=y, token_index=torch.cat([part.token_index for part in parts]))

    def full(
        self, window_numbers: NDArray[np.integer] | Sequence[int], check: Check | None = None
    ) -> tuple[TokenBatch, Float[Tensor, "b p d_in"], Bool[Tensor, "b p"]]:
        """Return (windows, read activations, mask) with every position in place, for evaluation."""
        tokens, x, _, keep = self._full(window_numbers, check)
        return tokens, x, keep

    def full_with_targets(
        self, window_numbers: NDArray[np.integer] | Sequence[int], check: Check | None = None
    ) -> tuple[TokenBatch, Float[Tensor, "b p d_in"], Float[Tensor, "b p d_out"], Bool[Tensor, "b p"]]:
        """Return (windows, read activations, written activations, mask): ``full`` for a transcoder."""
        return self._full(window_numbers, check)

    def _full(
        self, window_numbers: NDArray[np.integer] | Sequence[int], check: Check | None
    ) -> tuple[TokenBatch, Tensor, Tensor, Tensor]:
        parts = [self._forward(part) for part in self._micro_batches(window_numbers, check)]
        batches = [part[0] for part in parts]
        fields = {
            name: torch.cat([getattr(batch, name) for batch in batches])
            for name in ("tokens", "mask", "token_index", "text_index", "start")
        }
        x = torch.cat([part[1] for part in parts])
        y = x if self.same_sites else torch.cat([part[2] for part in parts])
        return TokenBatch(**fields), x, y, torch.cat([part[3] for part in parts])

    def _micro_batches(
        self, window_numbers: NDArray[np.integer] | Sequence[int], check: Check | None
    ) -> Iterator[NDArray[np.int64]]:
        numbers = np.asarray(window_numbers, dtype=np.int64).reshape(-1)
        if not numbers.size:
            raise ValueError("no windows asked for")
        for first in range(0, len(numbers), self.micro_batch):
            if check is not None:
                check()
            yield numbers[first : first + self.micro_batch]

    def _forward(self, numbers: NDArray[np.int64]) -> tuple[TokenBatch, Tensor, Tensor, Tensor]:
        batch = self.windows.batch(numbers)
        read = read_windows(self.lm, batch.tokens, [*self.sites.read, *self.sites.write], self.micro_batch)
        x = _join([read[site] for site in self.sites.read])
        y = x if self.same_sites else _join([read[site] for site in self.sites.write])
        keep = real_tokens(batch).to(x.device) if self.mask is None else self.mask.keep(batch, x)
        return batch, x, y, keep

    def _kept(self, batch: TokenBatch, x: Tensor, y: Tensor, keep: Tensor) -> ActivationBatch:
        rows = x[keep]
        index = batch.token_index.to(x.device)[keep]
        return ActivationBatch(x=rows, y=rows if y is x else y[keep], token_index=index)


def read_windows(
    lm: "FrozenLM", tokens: Int[Tensor, "b p"], sites: Sequence[str], micro_batch: int
) -> dict[str, Float[Tensor, "b p d"]]:
    """Return the activations of at most ``micro_batch`` windows, read as a pass of exactly that many.

    Fewer windows are filled up by repeating them, and what comes of the repeated ones is dropped: matrix products of
    another height may take another kernel and round differently, and the same shape gives the same bits.
    """
    n = len(tokens)
    if n < micro_batch:
        tokens = tokens[torch.arange(micro_batch, device=tokens.device) % n]
    return {site: value[:n] for site, value in lm.activations(tokens, sites).items()}


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
