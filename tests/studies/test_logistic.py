"""The fits of probes against a general optimiser on the dense matrix."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csc_array

from sae_lightning.studies.evaluation.logistic import OneFeature, cross_entropy, fit_logistic, sigmoid


def naive(f: np.ndarray, y: np.ndarray, a: np.ndarray, l2: float) -> float:
    square = float((a * f**2).sum())

    def objective(wb: np.ndarray) -> float:
        u = f * wb[0] + wb[1]
        return float((a * (np.logaddexp(0, u) - y * u)).sum() + l2 * square * wb[0] ** 2 / 2)

    starts = [np.zeros(2), np.array([1.0, -1.0])]
    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20_000, "maxfev": 20_000}
    return min(minimize(objective, s, method="Nelder-Mead", options=options).fun for s in starts)


def task(n: int = 120, n_features: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    f = rng.exponential(2.0, (n, n_features)) * (rng.random((n, n_features)) < 0.4)
    f[:, 1] += 2 * y * (rng.random(n) < 0.8)
    f[:, 2] = y * 5  # separates
    f[:, 3] *= 1e4  # another scale
    f[:, 4] = 0  # never fires
    f[:, 5] = -f[:, 1]
    f[:, 6] = 3.0  # constant: as good as none
    a = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    return f, y, a


@pytest.mark.parametrize("l2", [1e-2, 1e-4])
def test_every_feature_finds_its_optimum(l2: float) -> None:
    f, y, a = task()
    fit = OneFeature(csc_array(f), y, a, l2).fit()
    for i in range(f.shape[1]):
        scale = max(1.0, np.abs(f[:, i]).max())
        assert fit.objective[i] == pytest.approx(naive(f[:, i] / scale, y, a, l2), abs=1e-8), i
        u = f[:, i] * fit.w[i] + fit.b[i]
        penalty = l2 * (a * f[:, i] ** 2).sum() * fit.w[i] ** 2 / 2
        assert fit.objective[i] == pytest.approx(float((a * cross_entropy(u, y)).sum() + penalty), abs=1e-12)
    assert fit.objective[4] == pytest.approx(np.log(2))
    assert fit.objective[2] < 0.15  # finite, though it separates
    assert fit.objective[5] == pytest.approx(fit.objective[1], abs=1e-10)
    assert fit.w[5] == pytest.approx(-fit.w[1], rel=1e-4)


def test_it_does_not_depend_on_what_is_fitted_beside_it() -> None:
    f, y, a = task(seed=3)
    together = OneFeature(csc_array(f), y, a, 1e-3).fit()
    for i in (0, 3, 7):
        alone = OneFeature(csc_array(f[:, i : i + 1]), y, a, 1e-3).fit()
        assert alone.objective[0] == pytest.approx(together.objective[i], abs=1e-9)


def test_several_columns_are_at_a_minimum() -> None:
    _, y, a = task(seed=1)
    x = np.random.default_rng(2).standard_normal((len(y), 4)) * [1, 100, 1e-3, 1] + [0, 5, 0, 0]
    x[:, 3] = 7.0
    x[:, 0] += y
    l2 = 1e-2
    w, b = fit_logistic(x, y, a, l2)
    error = a * (sigmoid(x @ w + b) - y)
    variance = a @ (x - a @ x) ** 2
    assert error.sum() == pytest.approx(0, abs=1e-6)
    gradient = (x.T @ error + l2 * w * variance) / np.sqrt(variance + 1e-30)
    assert np.abs(gradient[:3]).max() < 1e-6
    assert w[3] == 0
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
