"""Stands where a Harvester does and reads a cache instead of the language model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae_lightning.activations.cache.reader import ActivationCache
from sae_lightning.activations.harvest import Harvester
from sae_lightning.activations.mask import MaskPolicy, real_tokens, row_norms
from sae_lightning.core import Sites, TokenBatch
from sae_lightning.tokens.sample import WindowSample
from sae_lightning.tokens.windows import Windows


class CachedHarvester(Harvester):
    """Windows in, rows out, bit for bit those of ``Harvester(lm, sites, windows, mask, micro_batch)``.

    caches: one for each read and written site, of the text that ``windows`` is a sample of (site -> cache). ``full``
    has zeros where no real token is (padding, separators, BOS): the language model's values there are not kept, and
    nothing that honours the mask looks at them. To run the model on from a site, use a ``Harvester``.

    device: where rows go.
    """

    def __init__(
        self,
        caches: Mapping[str, ActivationCache],
        sites: Sites,
        windows: WindowSample,
        mask: MaskPolicy | None = None,
        micro_batch: int = 32,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.caches = dict(caches)
        self.sites = sites
        self.windows = windows
        self.mask = mask
        self.micro_batch = micro_batch
        self._device = torch.device(device)
        self._read = [caches[site] for site in sites.read]
        self._write = [caches[site] for site in sites.write]
        self.d_in = sum(cache.d for cache in self._read)
        self.d_out = sum(cache.d for cache in self._write)
        for cache in (*self._read, *self._write):
            if cache.manifest.key["windows"] != windows.base.identity():
                raise ValueError(f"{cache.folder}: is a cache of other text than these windows")
            if cache.n_windows < len(windows):
                raise ValueError(f"{cache.folder}: holds {cache.n_windows} windows, the sample has {len(windows)}")

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return self._read[0].dtype

    def with_mask(self, mask: MaskPolicy | None) -> "CachedHarvester":
        """Return a harvester of the same caches and windows under another mask."""
        return CachedHarvester(self.caches, self.sites, self.windows, mask, self.micro_batch, device=self.device)

    def with_windows(self, windows: Windows | WindowSample) -> "CachedHarvester":
        """Return a harvester over another sample of the same text; ValueError where the caches do not hold it."""
        if not isinstance(windows, WindowSample):
            raise ValueError("a cache is of a WindowSample: its window numbers are the sample's")
        return CachedHarvester(self.caches, self.sites, windows, self.mask, self.micro_batch, device=self.device)

    def kept(self, numbers: NDArray[np.integer]) -> tuple[NDArray[np.int64], Int[Tensor, "n"], NDArray[np.int64]]:
        """Return (row numbers, token indices on the CPU, ends) of the kept tokens of some windows, in window order.

        Window i of them has the rows ``ends[i]`` to ``ends[i + 1] - 1``.
        """
        batch = self.windows.batch(numbers)
        rows = self._rows_of(numbers)
        keep = self._keep(batch, rows)
        ends = np.concatenate([[0], np.cumsum(keep.sum(1).numpy())])
        return rows[keep[real_tokens(batch)].numpy()], batch.token_index[keep], ends

    def gather_read(self, rows: NDArray[np.int64], out: Tensor | None = None) -> Float[Tensor, "n d_in"]:
        """Return the read sites' vectors of these rows, on the CPU. out: put them there, and trust that ``verify``
        has seen their windows."""
        return _gather(self._read, rows, out)

    def gather_write(self, rows: NDArray[np.int64], out: Tensor | None = None) -> Float[Tensor, "n d_out"]:
        """Return the written sites' vectors of these rows, like ``gather_read``."""
        return _gather(self._write, rows, out)

    def distinct(self) -> list[ActivationCache]:
        """Return the caches of the sites, each once."""
        return list({id(cache): cache for cache in (*self._read, *self._write)}.values())

    def _forward(self, numbers: NDArray[np.int64]) -> tuple[TokenBatch, Tensor, Tensor, Tensor]:
        batch = self.windows.batch(numbers)
        real, rows = real_tokens(batch), self._rows_of(numbers)
        x = self._spread(self._read, rows, real)
        y = x if self.same_sites else self._spread(self._write, rows, real)
        return batch, x, y, real.to(x.device) if self.mask is None else self.mask.keep(batch, x)

    def _rows_of(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the rows of all real tokens of these windows, in window order."""
        first, after = self._read[0].window_rows(numbers)
        lengths = after - first
        begins = np.cumsum(lengths) - lengths
        return np.repeat(first - begins, lengths) + np.arange(lengths.sum())

    def _keep(self, batch: TokenBatch, rows: NDArray[np.int64]) -> Bool[Tensor, "b p"]:
        """Return the mask of these windows on the CPU. rows: those of their real tokens, in order."""
        real = real_tokens(batch)
        if self.mask is None:
            return real
        if self.mask.norm_multiple is None:
            return self.mask.candidates(batch)
        if len(self._read) > 1:
            return self.mask.keep_by_norm(batch, self._joint_norms(rows, real))
        norms = torch.zeros(real.shape)
        norms[real] = torch.from_numpy(self._read[0].column("norm", rows))
        return self.mask.keep_by_norm(batch, norms)

    def _joint_norms(self, rows: NDArray[np.int64], real: Tensor) -> Float[Tensor, "b p"]:
        """Return the norms of several sites' concatenated vectors, micro-batch by micro-batch as in a stream."""
        ends = np.concatenate([[0], np.cumsum(real.sum(1).numpy())])
        out = []
        for first in range(0, len(real), self.micro_batch):
            part = real[first : first + self.micro_batch]
            own = rows[ends[first] : ends[first + len(part)]]
            out.append(row_norms(self._spread(self._read, own, part)).cpu())
        return torch.cat(out)

    def _spread(self, caches: Sequence[ActivationCache], rows: NDArray[np.int64], real: Tensor) -> Tensor:
        values = _gather(caches, rows).to(self.device)
        out = values.new_zeros(*real.shape, values.shape[1])
        out[real.to(self.device)] = values
        return out


def _gather(caches: Sequence[ActivationCache], rows: NDArray[np.int64], out: Tensor | None = None) -> Tensor:
    checked = out is not None
    if len(caches) == 1:
        return caches[0].gather(rows, out, checked=checked)
    return torch.cat([cache.gather(rows, checked=checked) for cache in caches], dim=-1, out=out)
