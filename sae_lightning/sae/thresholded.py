"""Architectures whose features fire above a bar of their own: dense at first, sparse once they have learnt to be."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lightning.core import Features, SAEOutput
from sae_lightning.sae.choosing import ChoosingAutoencoder
from sae_lightning.sae.forms import Encoded, Rows
from sae_lightning.sae.kernels import AboveEach, SparsePattern

#: Above this share of active pairs the sparse products cost more than the dense ones: a pair 1.0 us, an entry 0.04 us
#: (768 wide, two cores, float32; experiments/benchmarks has the table).
SPARSE_SHARE = 0.03
_PROBED_ROWS = 32


class ThresholdedAutoencoder(ChoosingAutoencoder):
    """``f_i = g_i(z_i)`` where ``z_i`` exceeds ``bars_i``, 0 (and without any gradient) elsewhere.

    Training on the CPU looks at a few rows of the batch: where at most 3 % of their pairs are above the bar, only the
    pairs that are take part in what follows, exactly; else everything is dense. The choice depends on weights and batch
    alone, so a resumed run makes the same one. Elsewhere (a GPU would have to be waited for) it is always dense.
    """

    @abstractmethod
    def bars(self) -> Float[Tensor, "d_sae"]:
        """Return below what z neither fires nor has a gradient, detached."""

    @abstractmethod
    def activate_pairs(self, z: Float[Tensor, "nnz"], pattern: SparsePattern) -> Float[Tensor, "nnz"]:
        """Return the activations of pairs above their bars, differentiable in z."""

    @abstractmethod
    def activate_all(self, z: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Return the activations of all pre-activations, differentiable in z."""

    def _encode(self, rows: Rows) -> Encoded:
        if not self._is_sparse(rows):
            z = self._pre_acts(rows)
            return Encoded(self._dense_features(self.activate_all(z), rows), z)
        z, pattern, pre_acts = self._choose(rows, AboveEach(self.bars(), self._slack(rows), self.width))
        values = self.activate_pairs(z, pattern)
        features = Features(values, pattern.indices, pattern.offsets, self.width, rows.mean, rows.std)
        return Encoded(features, pre_acts, z)

    @torch.no_grad()
    def _is_sparse(self, rows: Rows) -> bool:
        if not self.training or self.execution.whole_pre_acts or self.W_enc.device.type != "cpu":
            return False
        step = max(1, len(rows.centred) // _PROBED_ROWS)
        probed = Rows(rows.x[::step], rows.centred[::step], rows.mean, rows.std)
        return float((self._pre_acts(probed) > self.bars()).float().mean()) <= SPARSE_SHARE

    @torch.no_grad()
    def _slack(self, rows: Rows) -> Float[Tensor, "d_sae"]:
        """Return how far rounding to bfloat16 may move z: some three standard deviations of the sum of its errors."""
        length = rows.centred.square().sum(1).mean().sqrt()
        size = length * self.W_enc.norm(dim=0) / self.d_in**0.5
        return (size * self.decoder_norms() if self.rescale_acts_by_decoder_norm else size) / 128


def pair_pre_acts_of(out: SAEOutput) -> Float[Tensor, "nnz"]:
    """Return z at the pairs of sparse features."""
    assert out.selected is not None, "sparse features of a thresholded SAE carry their pre-activations"
    return out.selected
