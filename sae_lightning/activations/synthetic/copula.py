"""Correlated firing: a Gaussian copula of low rank, drawn without a normal for every cell."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lightning.activations.synthetic.bernoulli import independent
from sae_lightning.activations.synthetic.settings import Correlation
from sae_lightning.core import UserError, torch_generator

_LARGEST_FACTOR = 0.99
# Cells whose common part is this many of its standard deviations high are looked at one by one.
_HIGH = 1.5


class Copula:
    """The latent Gaussian of ``Correlation``: ``fires = common + spread * u > threshold``, u standard normal.

    factor [n, rank], ``common = factor e`` with e drawn once a row; spread, threshold [n]. Given e, the cells of a row
    are independent and feature i fires with probability ``q = Phi((common - threshold) / spread)``. Raises UserError
    where the scale makes A overflow.
    """

    def __init__(self, p: NDArray[np.float64], how: Correlation, seed: int) -> None:
        seed = seed if how.seed is None else how.seed
        generator = torch_generator(seed, "synthetic", "correlation")
        factor = (how.correlation_scale * torch.randn(len(p), how.rank, generator=generator)).numpy()
        with np.errstate(over="ignore"):
            squared = np.square(factor).sum(1)
        if not np.isfinite(squared).all():
            raise UserError(
                f"correlation.correlation_scale={how.correlation_scale:g}: gives factors too long for float32, and so "
                "no correlation matrix; lower it (from about 1 on, features are as correlated as they get)"
            )
        factor *= np.sqrt(np.minimum(1.0, _LARGEST_FACTOR / np.maximum(squared, 1e-30)))[:, None].astype(np.float32)
        self.factor = factor
        squared = np.square(factor.astype(np.float64)).sum(1)
        self.spread = np.sqrt(1 - squared)
        self.threshold = -torch.special.ndtri(torch.from_numpy(p)).numpy()
        # The common part above which a cell is looked at, and the probability of firing there.
        self.high = _HIGH * np.sqrt(squared)
        self.p_high = _phi((self.high - self.threshold) / self.spread)

    def latent(self, rng: np.random.Generator, n_rows: int) -> "Latent":
        """Draw what the features of each row have in common."""
        return Latent(self, rng.standard_normal((n_rows, self.factor.shape[1]), dtype=np.float32))


@dataclass(frozen=True)
class Latent:
    """A block's rows under a copula; shared: e of each row, [n_rows, rank]."""

    copula: Copula
    shared: NDArray[np.float32]

    def fires_in(self, rng: np.random.Generator, part: slice) -> tuple[NDArray, NDArray]:
        """Return (row, feature - part.start) of the firings of adjacent features.

        A cell fires where a uniform v is below q. Cells with ``v < p_high`` are drawn sparsely, kept where ``v < q``.
        That is all where ``q <= p_high``; in the few cells where q is higher, v above p_high is drawn as well.
        """
        n, p_high = part.stop - part.start, self.copula.p_high[part]
        if n == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        common = self.shared @ self.copula.factor[part].T
        rows, features = independent(rng, len(common), p_high)
        cells = rows * n + features
        low = rng.random(len(cells)) * p_high[features] < self._q(common.ravel()[cells], features + part.start)
        high = np.flatnonzero(common > self.copula.high[part].astype(np.float32))
        floor = p_high[high % n]
        v = floor + rng.random(len(high)) * (1 - floor)
        above = v < self._q(common.ravel()[high], high % n + part.start)
        return np.divmod(np.union1d(cells[low], high[above]), n)

    def fires_at(self, rng: np.random.Generator, rows: NDArray, features: NDArray) -> NDArray[np.bool_]:
        """Return which of these cells fire."""
        common = np.einsum("ij,ij->i", self.shared[rows], self.copula.factor[features])
        return rng.random(len(rows)) < self._q(common, features)

    def _q(self, common: NDArray[np.float32], features: NDArray) -> NDArray[np.float64]:
        return _phi((common - self.copula.threshold[features]) / self.copula.spread[features])


def _phi(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.special.ndtr(torch.from_numpy(z)).numpy()
