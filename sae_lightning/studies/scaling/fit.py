"""Scaling laws: what is fitted, from how many points at least, and the fit with its intervals and residuals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sae_lightning.core.seeds import derive_seed
from sae_lightning.studies.scaling.bootstrap import Select, draws_of, interval, resample
from sae_lightning.studies.scaling.solve import Array, PowerSum, fit_once

Monomial = tuple[str, ...]


@dataclass(frozen=True)
class Law:
    """A sum of power laws: ``L = sum_t exp(sum_m theta_tm prod(ln v for v in m))``.

    terms: each term's monomials; () is the constant. parameters: their names, in the same order.
    points: fewest points for a fit. distinct: fewest different values of each variable. span: the largest value over
    the smallest must be at least this. broad: below this span a fit is flagged as narrow.
    """

    name: str
    formula: str
    terms: tuple[tuple[Monomial, ...], ...]
    parameters: tuple[str, ...]
    points: int
    distinct: Mapping[str, int]
    span: Mapping[str, float]
    broad: Mapping[str, float]

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(self.distinct)

    def model(self, values: Mapping[str, Array]) -> PowerSum:
        """Return the law's designs at these values of its variables."""
        logs = {name: np.log(values[name]) for name in self.variables}
        n = len(next(iter(logs.values())))

        def column(monomial: Monomial) -> Array:
            return np.prod([logs[name] for name in monomial], axis=0) if monomial else np.ones(n)

        return PowerSum(tuple(np.stack([column(m) for m in term], axis=1) for term in self.terms))


def _single(name: str, variable: str, floor: bool, points: int, distinct: int, span: float, broad: float) -> Law:
    return Law(
        name,
        f"{name} = exp(a + b ln {variable})" + (" + exp(z)" if floor else ""),
        (((), (variable,)), *(((((),),)) if floor else ())),
        ("a", "b", *(("z",) if floor else ())),
        points,
        {variable: distinct},
        {variable: span},
        {variable: broad},
    )


# Gao et al. 2024 (arXiv 2406.04093) section 3: loss against latents N, active latents k, and compute C.
WIDTH = _single("L(N)", "N", False, points=4, distinct=4, span=4, broad=16)
WIDTH_FLOOR = _single("L(N)", "N", True, points=8, distinct=5, span=8, broad=32)
COMPUTE = _single("L(C)", "C", False, points=5, distinct=5, span=8, broad=100)
COMPUTE_FLOOR = _single("L(C)", "C", True, points=10, distinct=8, span=30, broad=1000)
JOINT = Law(
    "L(N, k)",
    "L(N, k) = exp(a + b_k ln k + b_n ln N + g ln k ln N) + exp(z + e ln k)",
    (((), ("k",), ("N",), ("k", "N")), ((), ("k",))),
    ("a", "b_k", "b_n", "g", "z", "e"),
    points=12,
    distinct={"N": 3, "k": 3},
    span={"N": 4, "k": 4},
    broad={"N": 8, "k": 8},
)


@dataclass(frozen=True)
class Refusal:
    """A law that was not fitted, and why: too few points, or too narrow a range. k: of runs at one k only."""

    law: Law
    subject: str
    reason: str
    k: float | None = None


@dataclass(frozen=True)
class Fit:
    """A fitted law. subject: which runs it is about; k: of runs at one k only.

    estimate, lower, upper: [p], in the order of law.parameters; the interval is at 95 %.
    values: the variables' values [n]; loss: L [n]; predicted: [n]. used: mask [n] of the points it was fitted to (all,
    or those on the frontier). flags: what a reader has to know. aicc: corrected Akaike criterion (lower is better).
    """

    law: Law
    subject: str
    estimate: Array
    lower: Array
    upper: Array
    values: Mapping[str, Array]
    loss: Array
    predicted: Array
    used: np.ndarray
    draws: int
    aicc: float
    flags: tuple[str, ...] = ()
    k: float | None = None

    @property
    def n(self) -> int:
        """Points that the law was fitted to."""
        return int(self.used.sum())

    @property
    def residuals(self) -> Array:
        """``ln L - ln L_predicted`` of the points it was fitted to."""
        return np.log(self.loss[self.used] / self.predicted[self.used])

    def at(self, **values: Array) -> Array:
        """Return the law's L at other values of its variables."""
        return np.exp(self.law.model(values).predict(self.estimate))


def too_few(law: Law, values: Mapping[str, Array]) -> str | None:
    """Say why there are too few points, or points too close together, for a fit; None where there are enough."""
    n = len(next(iter(values.values())))
    if n < law.points:
        return f"too few points: {n}, at least {law.points} are needed"
    for name, needed in law.distinct.items():
        different = len(np.unique(values[name]))
        if different < needed:
            return f"too few points: {different} different {name}, at least {needed} are needed ({n} points)"
        span = values[name].max() / values[name].min()
        if span < law.span[name]:
            needed = f"at least {law.span[name]:g} is needed"
            return f"too narrow a range: {name} spans a factor of {span:.3g}, {needed} ({n} points)"
    return None


def fit_law(
    law: Law,
    subject: str,
    values: Mapping[str, Array],
    loss: Array,
    *,
    k: float | None = None,
    seed: int = 0,
    draws: int = 1000,
    select: Select | None = None,
) -> Fit | Refusal:
    """Fit a law to runs, in log space, with bootstrap intervals over runs.

    values: each variable's value a run [n], positive. loss: L a run [n], positive.
    select: numbers of the runs -> those on the frontier; the fit and every resample are made from these alone.
    """
    everything = np.arange(len(loss))
    chosen = everything if select is None else select(everything)
    reduced = {name: np.asarray(values[name], np.float64)[chosen] for name in law.variables}
    if reason := too_few(law, reduced):
        return Refusal(law, subject, reason, k)
    y = np.log(np.asarray(loss, np.float64))
    whole, part = law.model(values), law.model(reduced)
    theta, scale = fit_once(part, y[chosen], np.random.default_rng(derive_seed(seed, "scaling", "starts")))
    weights = resample(whole, draws, seed, select)
    if len(weights) < draws:
        return Refusal(law, subject, f"too few points: nearly every resample of the {len(chosen)} lacks a range", k)
    lower, upper = interval(draws_of(whole, y, theta, scale, weights), part, theta, y[chosen])
    used = np.zeros(len(loss), bool)
    used[chosen] = True
    predicted = np.exp(whole.predict(theta))
    n, p = len(chosen), whole.p + 1  # the noise is a parameter too
    squares = float((np.log(loss / predicted)[used] ** 2).sum())
    penalty = 2 * p + 2 * p * (p + 1) / (n - p - 1) if n > p + 1 else np.inf
    aicc = n * np.log(max(squares, 1e-300) / n) + penalty
    return Fit(
        law=law,
        subject=subject,
        estimate=theta,
        lower=lower,
        upper=upper,
        values=values,
        loss=np.asarray(loss),
        predicted=predicted,
        used=used,
        draws=draws,
        aicc=float(aicc),
        flags=_flags(law, reduced, y[chosen] - part.predict(theta), lower, upper),
        k=k,
    )


def _flags(law: Law, values: Mapping[str, Array], residuals: Array, lower: Array, upper: Array) -> tuple[str, ...]:
    flags = []
    for name, broad in law.broad.items():
        span = values[name].max() / values[name].min()
        if span < broad:
            flags.append(f"narrow range: {name} spans a factor of {span:.3g} only (below {broad:g})")
    for i, name in enumerate(law.parameters):
        if name not in ("a", "z") and lower[i] <= 0 <= upper[i]:
            flags.append(f"{name} cannot be told from 0")
    if len(law.variables) == 1 and _curved(np.log(values[law.variables[0]]), residuals):
        flags.append("the residuals are curved: the points do not follow this form")
    return tuple(flags)


def _curved(x: Array, residuals: Array) -> bool:
    """Tell whether the residuals bend with ``x``: the t-test of a square term at the 1 % level."""
    from scipy.special import stdtrit

    line = np.stack([np.ones_like(x), x], axis=1)
    square = x**2 - line @ np.linalg.lstsq(line, x**2, rcond=None)[0]
    if len(x) < 5 or (total := float(residuals @ residuals)) == 0 or not square.any():
        return False
    explained = float(residuals @ square) ** 2 / float(square @ square) / total
    return np.sqrt(explained / max(1 - explained, 1e-12) * (len(x) - 3)) > stdtrit(len(x) - 3, 0.995)
