"""Architectures that keep k features: the shared sparse path and the annealing of k."""

from abc import abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Features, UserError
from sae_lightning.sae.choosing import ChoosingAutoencoder
from sae_lightning.sae.forms import Encoded, Rows
from sae_lightning.sae.kernels import Selector


class SelectiveAutoencoder(ChoosingAutoencoder):
    """``f = ReLU(z)`` on selected pairs, 0 elsewhere; forward and backward cost follow the pairs.

    k anneals linearly from ``k_start`` to ``k`` over the first share ``k_anneal`` of training (none without
    ``k_start``). Raises UserError where k or k_start exceeds d_sae.
    """

    features_scale_freely = False

    def __init__(
        self, d_in: int, d_sae: int, d_out: int | None, k: int, k_start: int | None, k_anneal: float, **base: Any
    ):
        super().__init__(d_in, d_sae, d_out, **base)
        for name, value in (("k", k), ("k_start", k if k_start is None else k_start)):
            if not 1 <= value <= d_sae:
                raise UserError(f"{name}={value}: must lie between 1 and d_sae={d_sae}; lower {name} or raise d_sae")
        if not 0 <= k_anneal <= 1:
            raise UserError(f"k_anneal={k_anneal}: a share of training between 0 and 1")
        self.k, self.k_start, self.k_anneal = k, k_start, k_anneal

    @property
    def k_effective(self) -> int:
        """k at the present progress of training."""
        if self.k_start is None or self.progress >= self.k_anneal:
            return self.k
        return round(self.k_start + (self.k - self.k_start) * self.progress / self.k_anneal)

    @property
    def nominal_l0(self) -> int | None:
        return self.k

    @abstractmethod
    def selector(self, n: int, k: int | None = None) -> Selector:
        """Return a fresh selection over ``n`` rows; k: instead of ``k_effective``."""

    def activate(self, values: Float[Tensor, "nnz"]) -> Float[Tensor, "nnz"]:
        """Return the activations of selected pre-activations."""
        return values.relu()

    def encode_at(
        self, x: Float[Tensor, "n d_in"], k: int, pre_acts: Float[Tensor, "n d_sae"] | None = None
    ) -> Features:
        """Return the features a selection of ``k`` would keep (Multi-TopK). pre_acts: as in selected_pre_acts."""
        return self._keep(self._rows(x), self.selector(len(x), k), pre_acts).features

    def _encode(self, rows: Rows) -> Encoded:
        return self._keep(rows, self.selector(len(rows.x)))

    def _keep(self, rows: Rows, selector: Selector, pre_acts: Tensor | None = None) -> Encoded:
        z, pattern, pre_acts = self._choose(rows, selector, pre_acts)
        features = Features(self.activate(z), pattern.indices, pattern.offsets, self.width, rows.mean, rows.std)
        return Encoded(features, pre_acts, z)
