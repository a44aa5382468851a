"""Sums of products of sparse features and dense neurons, and the correlations they give."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

# Correlations that are looked at at once: 128 MB in float64.
_CORRELATIONS = 1 << 24


@dataclass(frozen=True)
class Active:
    """The active pairs of n tokens by feature: matrix [F, n], sparse CSR; sums over tokens of f and f² [F]. float64."""

    matrix: Tensor
    f: Float[Tensor, "F"]
    ff: Float[Tensor, "F"]

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, "nnz"],
        features: Int[Tensor, "nnz"],
        values: Float[Tensor, "nnz"],
        shape: tuple[int, int],
    ) -> "Active":
        """Return (token, feature, value) triples, each pair once, as a matrix of ``shape`` [F, n]."""
        n_features, n = shape
        order = torch.argsort(features * n + rows)
        rows, features, values = rows[order], features[order], values[order].double()
        starts = torch.zeros(n_features + 1, dtype=torch.int64, device=rows.device)
        starts[1:] = torch.bincount(features, minlength=n_features).cumsum(0)
        zeros = values.new_zeros(n_features)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse")  # CSR is a beta of torch's
            matrix = torch.sparse_csr_tensor(starts, rows, values, size=shape, check_invariants=False)
        return cls(matrix, zeros.index_add(0, features, values), zeros.index_add(0, features, values.square()))


class CrossSums:
    """Running sums over tokens of f, f², y, y² and f y, float64: features f [F] sparse, neurons y [N] dense.

    Neurons are taken from their first row, which changes no covariance, keeps sums small and makes a neuron that never
    changes exactly 0. Memory: F N numbers. Time: active pairs times N.
    """

    def __init__(self, n_features: int, n_neurons: int, device: torch.device | str = "cpu") -> None:
        self.n_features, self.n_neurons = n_features, n_neurons
        self.n = 0
        zeros = torch.zeros(n_features + n_neurons, dtype=torch.float64, device=device)
        self.f, self.y = zeros.clone().split([n_features, n_neurons])
        self.ff, self.yy = zeros.split([n_features, n_neurons])
        self.fy = torch.zeros(n_features, n_neurons, dtype=torch.float64, device=device)
        self._origin: Tensor | None = None

    def add(self, active: Active, neurons: Float[Tensor, "n N"]) -> None:
        """Add n tokens: what is active on them, and every neuron, float64."""
        if not len(neurons):
            return
        if self._origin is None:
            self._origin = neurons[0].clone()
        neurons = neurons - self._origin
        self.n += len(neurons)
        self.f += active.f
        self.ff += active.ff
        self.y += neurons.sum(0)
        self.yy += neurons.square().sum(0)
        torch.addmm(self.fy, active.matrix, neurons, out=self.fy)

    def best(self, wanted: Bool[NDArray[np.bool_], "F"]) -> tuple[Int[NDArray, "F"], Float[NDArray, "F"]]:
        """Return (neuron, r) of the largest |r| of each wanted feature, of equal ones the lowest; else -1 and NaN."""
        neuron, r = np.full(self.n_features, -1, np.int32), np.full(self.n_features, np.nan)
        scale = (self.yy - self.y.square() / max(1, self.n)).clamp(min=0).rsqrt()
        scale = torch.where(scale.isfinite(), scale, torch.nan)
        spread = (self.ff - self.f.square() / max(1, self.n)).clamp(min=0).rsqrt()
        chosen = np.flatnonzero(wanted)
        step = max(1, _CORRELATIONS // self.n_neurons)
        for first in range(0, len(chosen), step):
            some = torch.from_numpy(chosen[first : first + step]).to(self.f.device)
            part = self.fy[some] - self.f[some, None] * (self.y / max(1, self.n))
            part = (part * spread[some, None] * scale).cpu().numpy()
            at = np.where(np.isfinite(part), np.abs(part), -1.0).argmax(1)
            value = np.take_along_axis(part, at[:, None], axis=1)[:, 0]
            there = np.isfinite(value)
            numbers = chosen[first : first + step][there]
            neuron[numbers], r[numbers] = at[there], np.clip(value[there], -1.0, 1.0)
        return neuron, r
