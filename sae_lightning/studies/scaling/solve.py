"""Robust least squares for sums of power laws in log space, many problems at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

_STEPS = 200
_DONE = 1e-10


@dataclass(frozen=True)
class PowerSum:
    """``ln L = ln sum_t exp(X_t theta_t)``: each term's logarithm is linear in parameters of its own.

    terms: designs X_t [n, p_t], columns 1, ln N, ln k and the like. Solved in the coordinates R_t theta_t of the QR
    decomposition of each design, in which the columns are orthonormal: far from the origin 1 and ln N are all but
    parallel, and so are their parameters.
    """

    terms: tuple[Array, ...]

    @property
    def n(self) -> int:
        return len(self.terms[0])

    @property
    def p(self) -> int:
        return sum(term.shape[1] for term in self.terms)

    def split(self, theta: Array) -> list[Array]:
        """Cut parameters [..., p] into those of each term."""
        return np.split(theta, np.cumsum([term.shape[1] for term in self.terms])[:-1], axis=-1)

    def log_terms(self, theta: Array) -> Array:
        """Return ``X_t theta_t`` as [..., n, terms]."""
        return np.stack([part @ term.T for term, part in zip(self.terms, self.split(theta), strict=True)], -1)

    def predict(self, theta: Array) -> Array:
        """Return ``ln L`` [..., n]."""
        return np.logaddexp.reduce(self.log_terms(theta), axis=-1)

    def jacobian(self, theta: Array) -> Array:
        """Return ``d ln L / d theta`` [..., n, p]: each term's share of L times its design."""
        logs = self.log_terms(theta)
        share = np.exp(logs - np.logaddexp.reduce(logs, axis=-1)[..., None])
        return np.concatenate([share[..., t, None] * term for t, term in enumerate(self.terms)], axis=-1)

    def orthonormal(self) -> tuple["PowerSum", Array]:
        """Return the same law with orthonormal designs, and the matrix that turns its parameters into ours."""
        decomposed = [np.linalg.qr(term) for term in self.terms]
        back = np.zeros((self.p, self.p))
        at = 0
        for _, r in decomposed:
            back[at : at + len(r), at : at + len(r)] = np.linalg.inv(r)
            at += len(r)
        return PowerSum(tuple(q for q, _ in decomposed)), back


def solve(law: PowerSum, y: Array, weights: Array, start: Array, scale: float) -> tuple[Array, Array]:
    """Minimise ``sum_i w_i s^2 rho((ln L_i - y_i)^2 / s^2)``, ``rho(z) = 2 (sqrt(1 + z) - 1)``, for B problems.

    Levenberg-Marquardt with iterative reweighting, every problem with damping of its own. ``rho`` (soft L1) is a square
    below ``s`` and a line above it, so that one failed run does not bend a law.

    y, weights: [B, n]. start: [B, p]. Returns (theta [B, p], cost [B]).
    """
    law, back = law.orthonormal()
    theta = start @ np.linalg.inv(back).T
    damping = np.full(len(theta), 1e-3)

    def costs(theta: Array, y: Array, weights: Array) -> Array:
        z = ((law.predict(theta) - y) / scale) ** 2
        return (weights * 2 * (np.sqrt(1 + z) - 1)).sum(-1)

    cost = costs(theta, y, weights)
    active = np.arange(len(theta))
    for _ in range(_STEPS):
        a, ya, wa = theta[active], y[active], weights[active]
        residual = law.predict(a) - ya
        jacobian = law.jacobian(a)
        robust = (wa / np.sqrt(1 + (residual / scale) ** 2))[..., None]
        gradient = np.einsum("bnp,bn->bp", jacobian * robust, residual)
        hessian = np.einsum("bnp,bnq->bpq", jacobian * robust, jacobian)
        hessian += (damping[active] + 1e-12)[:, None, None] * np.eye(law.p)
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        new = costs(a + step, ya, wa)
        better = new <= cost[active]
        won = active[better]
        theta[won] += step[better]
        gain = cost[won] - new[better]
        cost[won] = new[better]
        damping[active] = np.where(better, damping[active] / 5, damping[active] * 8)
        done = np.zeros(len(active), bool)
        done[better] = gain <= _DONE * (cost[won] + 1e-12)
        done |= damping[active] > 1e8
        active = active[~done]
        if not len(active):
            break
    return theta @ back.T, cost * scale**2


def starts(law: PowerSum, y: Array, rng: np.random.Generator) -> Array:
    """Return starting points [S, p]: the first term from ordinary least squares on what the others leave of L.

    The other terms begin as a floor below every point, at several heights, each also with disturbed exponents.
    """
    first, *rest = law.terms
    if not rest:
        return np.linalg.lstsq(first, y, rcond=None)[0][None]
    found: list[Array] = []
    for height in (0.02, 0.2, 0.5, 0.8, 0.95):
        for disturbed in range(5):
            others = []
            for term in rest:
                fit = np.linalg.lstsq(term, y, rcond=None)[0]
                fit[1:] += 0.3 * rng.standard_normal(len(fit) - 1) if disturbed else 0.0
                fit[0] += (y - term @ fit).min() + np.log(height / len(rest))
                others.append(fit)
            left = np.exp(y) - sum(np.exp(term @ fit) for term, fit in zip(rest, others, strict=True))
            main = np.linalg.lstsq(first, np.log(np.maximum(left, 1e-3 * np.exp(y))), rcond=None)[0]
            found.append(np.concatenate([main, *others]))
    return np.unique(np.array(found), axis=0)


def fit_once(law: PowerSum, y: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Return (theta [p], scale): the best of several starts, with the soft-L1 scale set from the data.

    scale: twice the standard deviation that the median absolute residual of a first fit stands for, so that ordinary
    noise is fitted by (all but) least squares and only what lies far outside it counts less.
    """
    begin = starts(law, y, rng)
    shape = (len(begin), law.n)
    ys, ones = np.broadcast_to(y, shape), np.ones(shape)
    theta, cost = solve(law, ys, ones, begin, scale=0.05)
    best = theta[np.argmin(cost)]
    spread = 1.4826 * np.median(np.abs(law.predict(best) - y)) * np.sqrt(law.n / max(1, law.n - law.p))
    scale = max(2 * float(spread), 1e-6)
    theta, cost = solve(law, ys, ones, np.concatenate([best[None], begin])[: len(begin)], scale)
    return theta[np.argmin(cost)], scale


def independent(terms: Sequence[Array]) -> bool:
    """Tell whether every design has full column rank: whether its parameters can be told apart at all."""
    return all(len(term) >= term.shape[1] and np.linalg.matrix_rank(term) == term.shape[1] for term in terms)
