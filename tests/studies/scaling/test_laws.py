"""Laws fitted to planted sweeps: intervals that hold the truth, refusals that say how many points are needed."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from sae_lightning.studies.scaling import Fit, Refusal, collect, fit_law, preferred, scaling_laws
from sae_lightning.studies.scaling.fit import COMPUTE, JOINT, WIDTH, WIDTH_FLOOR
from tests.studies.scaling.planted_runs import (
    COMPUTE_TRUTH,
    JOINT_TRUTH,
    KS,
    WIDTH_TRUTH,
    WIDTHS,
    compute_runs,
    joint_loss,
    joint_runs,
    record,
    width_runs,
    write_run,
)

SEEDS = 20
DRAWS = 300


def fits_of(folder: Path, records: list[dict], seed: int = 0, draws: int = DRAWS) -> dict[str, Fit | Refusal]:
    write_run(folder, *records)
    laws = scaling_laws(collect([folder]), draws=draws, seed=seed)
    return {law.law.formula: law for law in laws}


def held(fit: Fit | Refusal, truth: dict[str, float]) -> dict[str, bool]:
    assert isinstance(fit, Fit), fit
    return {
        name: bool(low <= truth[name] <= high)
        for name, low, high in zip(fit.law.parameters, fit.lower, fit.upper, strict=True)
        if name in truth
    }


def test_the_intervals_of_the_joint_law_hold_the_truth(tmp_path: Path) -> None:
    hits = dict.fromkeys(JOINT_TRUTH, 0)
    for seed in range(SEEDS):
        law = fits_of(tmp_path / str(seed), joint_runs(seed))[JOINT.formula]
        for name, hit in held(law, JOINT_TRUTH).items():
            hits[name] += hit
    assert min(hits.values()) >= 18, hits


def test_the_intervals_of_the_width_law_hold_the_truth(tmp_path: Path) -> None:
    hits = dict.fromkeys(("pure b", "floor b", "floor z"), 0)
    for seed in range(SEEDS):
        pure = fits_of(tmp_path / f"p{seed}", width_runs(seed, floor=False))[WIDTH.formula]
        floor = fits_of(tmp_path / f"f{seed}", width_runs(seed))[WIDTH_FLOOR.formula]
        hits["pure b"] += held(pure, WIDTH_TRUTH)["b"]
        for name in ("b", "z"):
            hits[f"floor {name}"] += held(floor, WIDTH_TRUTH)[name]
    assert min(hits.values()) >= 18, hits


def test_the_intervals_of_the_compute_frontier_hold_the_truth(tmp_path: Path) -> None:
    hits = 0
    for seed in range(SEEDS):
        law = fits_of(tmp_path / str(seed), compute_runs(seed))[COMPUTE.formula]
        assert isinstance(law, Fit)
        assert 5 <= law.n < len(law.loss)  # the envelope alone
        hits += held(law, {"b": COMPUTE_TRUTH})["b"]
    assert hits >= 18


def test_intervals_are_not_simply_wide(tmp_path: Path) -> None:
    """An interval that holds everything would pass the tests above: these say something."""
    joint = fits_of(tmp_path / "j", joint_runs(0))[JOINT.formula]
    width = fits_of(tmp_path / "w", width_runs(0))[WIDTH_FLOOR.formula]
    compute = fits_of(tmp_path / "c", compute_runs(0))[COMPUTE.formula]
    assert isinstance(joint, Fit) and isinstance(width, Fit) and isinstance(compute, Fit)  # noqa: PT018
    spread = dict(zip(joint.law.parameters, joint.upper - joint.lower, strict=True))
    assert spread["b_n"] < 0.3
    assert spread["b_k"] < 0.5
    assert (width.upper - width.lower)[1] < 0.2
    assert (compute.upper - compute.lower)[1] < 0.04


def test_the_fit_is_the_one_that_scipy_finds() -> None:
    """Without noise enough to matter for the robust loss: the same minimum from an independent solver."""
    rng = np.random.default_rng(3)
    n, k = (a.ravel().astype(float) for a in np.meshgrid(WIDTHS, KS))
    loss = np.array([joint_loss(a, b) for a, b in zip(n, k, strict=True)]) * np.exp(0.01 * rng.standard_normal(len(n)))
    law = fit_law(JOINT, "planted", {"N": n, "k": k}, loss, draws=100)
    assert isinstance(law, Fit)
    x, y = np.log(k), np.log(n)
    spread = 1.4826 * np.median(np.abs(law.residuals)) * np.sqrt(36 / 30)

    def residual(t: np.ndarray) -> np.ndarray:
        return np.logaddexp(t[0] + t[1] * x + t[2] * y + t[3] * x * y, t[4] + t[5] * x) - np.log(loss)

    best = min(
        (
            least_squares(residual, np.array(start), loss="soft_l1", f_scale=2 * spread, xtol=1e-14, ftol=1e-14)
            for start in ([1.5, -0.1, -0.25, -0.03, -2, -0.2], [1.0, 0.0, -0.3, 0.0, -3.0, 0.0])
        ),
        key=lambda result: result.cost,
    )
    np.testing.assert_allclose(residual(law.estimate), residual(best.x), atol=3e-4)


def test_an_exact_law_is_found_exactly() -> None:
    n = np.array(WIDTHS, float)
    law = fit_law(WIDTH, "exact", {"N": n}, 3.0 * n**-0.25, draws=100)
    assert isinstance(law, Fit)
    np.testing.assert_allclose(law.estimate, [np.log(3.0), -0.25], rtol=1e-6)
    np.testing.assert_allclose(law.at(N=np.array([1000.0])), [3.0 * 1000**-0.25], rtol=1e-6)
    assert np.abs(law.residuals).max() < 1e-6


def test_one_failed_run_does_not_bend_a_law() -> None:
    n = np.repeat(np.array(WIDTHS, float), 3)
    loss = 3.0 * n**-0.25 * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(n)))
    loss[-1] *= 5
    law = fit_law(WIDTH, "outlier", {"N": n}, loss, draws=100)
    assert isinstance(law, Fit)
    assert law.estimate[1] == pytest.approx(-0.25, abs=0.03)
    assert np.polyfit(np.log(n), np.log(loss), 1)[0] > -0.18  # least squares is bent


def test_the_form_with_a_floor_is_preferred_where_there_is_one(tmp_path: Path) -> None:
    for name, floor in (("with", True), ("without", False)):
        laws = scaling_laws(collect([write_run(tmp_path / name, *width_runs(1, floor=floor))]), draws=100)
        chosen = [laws[i].law for i in preferred(laws)]
        assert ((WIDTH_FLOOR in chosen), (WIDTH in chosen)) == (floor, not floor)


@pytest.mark.parametrize(
    ("law", "values", "said"),
    [
        (WIDTH, {"N": [64, 128, 256]}, "too few points: 3, at least 4 are needed"),
        (WIDTH, {"N": [64, 64, 128, 256]}, r"too few points: 3 different N, at least 4 are needed \(4 points\)"),
        (WIDTH, {"N": [100, 110, 120, 130]}, "too narrow a range: N spans a factor of 1.3, at least 4 is needed"),
        (JOINT, {"N": [64] * 20, "k": [4, 8, 16, 32] * 5}, "1 different N, at least 3"),
        (COMPUTE, {"C": []}, "too few points: 0, at least 5"),
    ],
)
def test_too_few_points_are_said_and_how_many_are_needed(law, values, said: str) -> None:
    values = {name: np.array(v, float) for name, v in values.items()}
    loss = np.linspace(0.5, 0.3, len(next(iter(values.values()))))
    refused = fit_law(law, "few", values, loss, draws=100)
    assert isinstance(refused, Refusal)
    import re

    assert re.search(said, refused.reason)


def test_a_narrow_range_and_an_undetermined_exponent_are_flagged() -> None:
    n = np.array([100, 150, 250, 450, 500], float)
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal(5))
    law = fit_law(WIDTH, "flat", {"N": n}, 0.3 * noise, draws=200)
    assert isinstance(law, Fit)
    assert any("narrow range: N spans a factor of 5" in flag for flag in law.flags)
    assert "b cannot be told from 0" in law.flags


def test_residuals_that_bend_are_flagged() -> None:
    n = np.repeat(np.array(WIDTHS, float), 2)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(n)))
    bent = fit_law(WIDTH, "floor", {"N": n}, (n**-0.4 + 0.03) * noise, draws=100)
    straight = fit_law(WIDTH, "none", {"N": n}, n**-0.4 * noise, draws=100)
    assert isinstance(bent, Fit) and isinstance(straight, Fit)  # noqa: PT018
    assert any("curved" in flag for flag in bent.flags)
    assert straight.flags == ()


def test_the_same_seed_gives_the_same_intervals() -> None:
    n = np.repeat(np.array(WIDTHS, float), 2)
    loss = n**-0.3 * np.exp(0.05 * np.random.default_rng(0).standard_normal(12))
    a, b = (fit_law(WIDTH, "x", {"N": n}, loss, draws=150, seed=4) for _ in range(2))
    c = fit_law(WIDTH, "x", {"N": n}, loss, draws=150, seed=5)
    assert isinstance(a, Fit) and isinstance(b, Fit) and isinstance(c, Fit)  # noqa: PT018
    assert (a.lower == b.lower).all()
    assert (a.upper == b.upper).all()
    assert (a.lower != c.lower).any()


def test_the_best_learning_rate_counts_and_other_activations_do_not_mix(tmp_path: Path) -> None:
    records = [
        record(d_sae=n, k=16, lr=lr, fvu=n**-0.3 * worse, sites=[site])
        for n in WIDTHS
        for lr, worse in ((1e-3, 1.0), (1e-2, 1.7))
        for site in ("early", "late")
    ]
    laws = scaling_laws(collect([write_run(tmp_path, *records)]), draws=100)
    widths = [law for law in laws if law.law is WIDTH]
    assert len(widths) == 2
    assert {law.subject for law in widths} == {"topk, sites ['early']", "topk, sites ['late']"}
    for law in widths:
        assert isinstance(law, Fit)
        assert law.n == len(WIDTHS)
        assert law.estimate[1] == pytest.approx(-0.3, abs=1e-6)


def test_an_architecture_without_k_is_told_so_and_fitted_at_its_measured_l0(tmp_path: Path) -> None:
    records = [
        record(architecture="standard", d_sae=n, k=None, l0=float(k), fvu=joint_loss(n, k)) for n in WIDTHS for k in KS
    ]
    laws = fits_of(tmp_path, records, draws=100)
    assert isinstance(laws[WIDTH.formula], Refusal)
    assert "fixes no k" in laws[WIDTH.formula].reason  # type: ignore[union-attr]
    joint = laws[JOINT.formula]
    assert isinstance(joint, Fit)
    assert "measured L0" in joint.subject
    np.testing.assert_allclose(joint.estimate, list(JOINT_TRUTH.values()), rtol=1e-3, atol=1e-3)
