"""Logistic regressions for probes: one feature at a time for all features at once, and of a few columns together."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 60
_TOLERANCE = 1e-10


class SparseColumns(Protocol):
    """What is used of a ``scipy.sparse.csc_array`` [n, F]."""

    data: NDArray
    indices: NDArray
    indptr: NDArray
    shape: tuple[int, ...]


class Lines(NamedTuple):
    """``logit = w f + b`` of each feature. w, b, objective: [F] float64."""

    w: Floats
    b: Floats
    objective: Floats


def softplus(u: Floats) -> Floats:
    """Return ``log(1 + exp(u))`` without overflow."""
    return np.logaddexp(0.0, u)


def sigmoid(u: Floats) -> Floats:
    """Return ``1 / (1 + exp(-u))`` without overflow."""
    return np.exp(-softplus(-u))


def cross_entropy(logits: Floats, y: Floats) -> Floats:
    """Return ``-log p(y)`` in nats; y is 0 or 1."""
    return softplus(logits) - y * logits


class OneFeature:
    """Fits ``min_{w, b} sum_t a_t CE(y_t, w f_t + b) + l2 (w s)^2 / 2`` for every feature of a sparse matrix at once.

    f: columns of ``features`` [n, F], y [n] 0 or 1, a [n] weights that sum to 1; s is the feature's root mean square,
    so that the penalty does not depend on a feature's scale. It keeps w finite where one feature separates the
    classes.

    Newton's method with a backtracking step for each feature, float64. Only stored entries are visited: the texts on
    which a feature is 0 enter through the sum of their weights, exactly. Source of the probe: Gao et al. 2024,
    "Scaling and evaluating sparse autoencoders", section 4.2 (there on pre-activations and without penalty).
    """

    def __init__(self, features: SparseColumns, y: Floats, a: Floats, l2: float) -> None:
        n_columns = features.shape[1]
        self.f = features.data.astype(np.float64)
        self.column = np.repeat(np.arange(n_columns), np.diff(features.indptr))
        self.y, self.a = y[features.indices], a[features.indices]
        self.n_columns = n_columns
        ones, zeros = float((a * y).sum()), float((a * (1 - y)).sum())
        # Weight of the texts of each class on which the feature is 0.
        self.rest_ones = ones - self._sum(self.a * self.y)
        self.rest_zeros = zeros - self._sum(self.a * (1 - self.y))
        self.ridge = l2 * self._sum(self.a * self.f**2)
        self.start = np.log(ones / zeros)

    def fit(self) -> Lines:
        """Return the best line of each feature."""
        w, b = np.zeros(self.n_columns), np.full(self.n_columns, self.start)
        value = self._objective(w, b)
        for _ in range(_STEPS):
            step_w, step_b, slope = self._newton(w, b)
            going = slope > _TOLERANCE
            if not going.any():
                break
            size, tried = self._search(w, b, step_w, step_b, value, np.where(going, slope, 0.0))
            better = going & (tried < value)
            w, b = np.where(better, w + size * step_w, w), np.where(better, b + size * step_b, b)
            if not better.any():
                break
            value = np.where(better, tried, value)
        return Lines(w, b, value)

    def _search(
        self, w: Floats, b: Floats, step_w: Floats, step_b: Floats, value: Floats, slope: Floats
    ) -> tuple[Floats, Floats]:
        """Halve each feature's step until its objective has fallen enough; return sizes and objectives."""
        size = np.ones(self.n_columns)
        tried = self._objective(w + step_w, b + step_b)
        for _ in range(30):
            worse = (slope > 0) & (tried > value - 1e-4 * size * slope)
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
            tried = self._objective(w + size * step_w, b + size * step_b)
        return size, tried

    def _sum(self, entries: Floats) -> Floats:
        return np.bincount(self.column, weights=entries, minlength=self.n_columns).astype(np.float64)

    def _objective(self, w: Floats, b: Floats) -> Floats:
        inside = self._sum(self.a * cross_entropy(w[self.column] * self.f + b[self.column], self.y))
        return inside + self.rest_ones * softplus(-b) + self.rest_zeros * softplus(b) + self.ridge * w**2 / 2

    def _newton(self, w: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the Newton step of each feature and how fast the objective falls along it."""
        p, p0 = sigmoid(w[self.column] * self.f + b[self.column]), sigmoid(b)
        error, curve = self.a * (p - self.y), self.a * p * (1 - p)
        rest = self.rest_ones + self.rest_zeros
        g_w = self._sum(error * self.f) + self.ridge * w
        g_b = self._sum(error) + rest * p0 - self.rest_ones
        h_ww = self._sum(curve * self.f**2) + self.ridge
        h_wb = self._sum(curve * self.f)
        h_bb = self._sum(curve) + rest * p0 * (1 - p0) + 1e-12
        determinant = np.maximum(h_ww * h_bb - h_wb**2, 1e-300)
        step_w = -(h_bb * g_w - h_wb * g_b) / determinant
        step_b = -(h_ww * g_b - h_wb * g_w) / determinant
        return step_w, step_b, np.maximum(-(g_w * step_w + g_b * step_b), 0.0)


def fit_logistic(x: Floats, y: Floats, a: Floats, l2: float) -> tuple[Floats, float]:
    """Return (w, b) of ``min sum_t a_t CE(y_t, x_t w + b) + l2 sum_j (w_j s_j)^2 / 2``, for a few columns together.

    x [n, k], y [n] 0 or 1, a [n] weights that sum to 1, s_j the column's root mean square about its mean. L-BFGS on
    standardised columns, float64; a constant column gets weight 0.
    """
    from scipy.optimize import minimize

    mean = a @ x
    spread = np.sqrt(a @ (x - mean) ** 2)
    alive = spread > 0
    z = (x - mean)[:, alive] / spread[alive]

    def objective(wb: Floats) -> tuple[float, Floats]:
        logits = z @ wb[:-1] + wb[-1]
        error = a * (sigmoid(logits) - y)
        value = float(a @ cross_entropy(logits, y)) + l2 * float(wb[:-1] @ wb[:-1]) / 2
        return value, np.append(z.T @ error + l2 * wb[:-1], error.sum())

    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(objective, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B", options=options).x
    w = np.zeros(x.shape[1])
    w[alive] = found[:-1] / spread[alive]
    return w, float(found[-1] - mean @ w)
