"""Matching directions and firings, against loops that say what is meant."""

from itertools import permutations

import numpy as np
import pytest
import torch

from sae_lightning.core import Features
from sae_lightning.metrics import FiringAgreement, match
from sae_lightning.metrics import matching as module

F, N, D = 5, 7, 6


@pytest.fixture
def learned() -> torch.Tensor:
    return (
        torch.randn(F, D, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 9.0, 0.1, 2.0, 1.0])[:, None]
    )


@pytest.fixture
def true() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(N, D, generator=torch.Generator().manual_seed(2)), dim=1)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return abs(float(a.double() @ b.double() / (a.double().norm() * b.double().norm())))


def test_best_matches_and_the_one_to_one_match_are_those_of_trying_everything(
    learned: torch.Tensor, true: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2 * N)  # rows of latents in several chunks
    c = np.array([[cosine(a, b) for b in true] for a in learned])
    found = match(learned, true)
    np.testing.assert_array_equal(found.best, c.argmax(1))
    np.testing.assert_allclose(found.best_cosine, c.max(1), atol=1e-6)
    np.testing.assert_allclose(found.true_cosine, c.max(0), atol=1e-6)
    best = max(permutations(range(N), F), key=lambda chosen: sum(c[j, i] for j, i in enumerate(chosen)))
    assert found.matched is not None
    wanted = np.full(N, np.nan)
    for j, i in enumerate(best):
        wanted[i] = c[j, i]
    np.testing.assert_allclose(found.matched, wanted, atol=1e-6)
    assert float(found.crowding.mean()) == pytest.approx(len(set(c.argmax(1))) / F)


def test_the_truth_itself_in_another_order_sign_and_length_scores_one(true: torch.Tensor) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    found = match(true[order] * torch.linspace(-3, 4, N)[:, None], true)
    np.testing.assert_array_equal(found.best, order)
    for values in (found.best_cosine, found.true_cosine, found.matched, found.crowding):
        assert values is not None
        np.testing.assert_allclose(values, 1, atol=1e-6)


def test_a_decoder_row_of_zeros_matches_nothing_and_too_many_pairs_have_no_one_to_one_match(
    true: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_MATCH", 10)
    found = match(torch.zeros(2, D), true)
    assert found.matched is None
    assert found.best_cosine.tolist() == [0, 0]


def random_rows(n: int, width: int, p: float, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((n, width)) < p, rng.random((n, width)) + 0.1, 0).astype(np.float32)
    return Features(torch.from_numpy(values), None, None, width)


def naive(features: torch.Tensor, truth: torch.Tensor, best: torch.Tensor, norms: torch.Tensor) -> dict[str, float]:
    precision, recall, f1, recovered, magnitude = [], [], [], 0.0, 0.0
    for j in range(features.shape[1]):
        fires, there = features[:, j] != 0, truth[:, best[j]] > 0
        tp, fp, fn = (int((a & b).sum()) for a, b in ((fires, there), (fires, ~there), (~fires, there)))
        p, r = tp / (tp + fp) if tp + fp else 0.0, tp / (tp + fn) if tp + fn else 0.0
        precision.append(p)
        recall.append(r)
        f1.append(2 * p * r / (p + r) if p + r else 0.0)
        recovered += float(features[fires & there, j].double().sum() * norms[j].double())
        magnitude += float(truth[fires & there, best[j]].double().sum())
    means = {name: float(np.mean(v)) for name, v in (("f1", f1), ("precision", precision), ("recall", recall))}
    return means | {"shrinkage": recovered / magnitude, "true_l0": float((truth > 0).sum(1).double().mean())}


@pytest.mark.parametrize("sparse", [False, True])
def test_firing_agreement_is_counting_latent_by_latent(sparse: bool) -> None:
    features, truth = random_rows(300, F, 0.3, 1), random_rows(300, N, 0.2, 2).sparse()
    features.values[:, 2] = 0  # a dead latent
    best, norms = torch.tensor([3, 3, 0, 6, 1]), torch.tensor([1.0, 2.0, 3.0, 0.5, 1.0])
    metric = FiringAgreement(best, norms)
    metric.update(features.sparse() if sparse else features, truth)
    wanted = naive(features.values, truth.dense(), best, norms)
    assert metric.compute() == pytest.approx(wanted, rel=1e-12)


def test_parts_add_up_and_resample_as_repeating_them_would() -> None:
    features, truth = random_rows(300, F, 0.3, 1), random_rows(300, N, 0.2, 2).sparse()
    best, norms = torch.tensor([3, 3, 0, 6, 1]), torch.ones(F)
    cuts = [(0, 100), (100, 101), (101, 300)]
    parts = []
    for a, b in cuts:
        part = FiringAgreement(best, norms)
        part.update(features.slice(a, b), truth.slice(a, b))
        parts.append(part)
    states = {name: torch.stack([part.state()[name] for part in parts]) for name in parts[0].state()}
    weights = torch.tensor([[1.0, 1, 1], [2, 0, 1]], dtype=torch.float64)
    drawn = parts[0].values(parts[0].pool(states, weights))
    repeated = FiringAgreement(best, norms)
    for a, b in (cuts[0], cuts[0], cuts[2]):
        repeated.update(features.slice(a, b), truth.slice(a, b))
    for name, value in repeated.compute().items():
        assert float(drawn[name][1]) == pytest.approx(value, rel=1e-12)
    whole = FiringAgreement(best, norms)
    whole.update(features, truth)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    for name, value in whole.compute().items():
        assert parts[0].compute()[name] == pytest.approx(value, rel=1e-12)
        assert float(drawn[name][0]) == pytest.approx(value, rel=1e-12)


def test_rows_without_any_firing_leave_zeros_and_no_shrinkage() -> None:
    metric = FiringAgreement(torch.tensor([0]), torch.ones(1))
    nothing = Features(torch.zeros(4, 1), None, None, 1)
    metric.update(nothing, nothing.sparse())
    values = metric.compute()
    assert [values[name] for name in ("f1", "precision", "recall", "true_l0")] == [0, 0, 0, 0]
    assert np.isnan(values["shrinkage"])
