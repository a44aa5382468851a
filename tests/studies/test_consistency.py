"""Matching two SAEs' features: permuted copies, brute force, sparse graphs, and several SAEs at once."""

from itertools import permutations

import numpy as np
import pytest
import torch

from sae_lightning.core import torch_generator
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.evaluation.consistency import ConsistencyStudy
from sae_lightning.studies.evaluation.matching import match, nearest, unit_rows


def sae_of(W_dec: torch.Tensor) -> StandardSAE:
    sae = StandardSAE(W_dec.shape[1], W_dec.shape[0])
    sae.W_dec.data = W_dec.clone()
    return sae


def random_rows(n: int, d: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch_generator(seed, "tests", "consistency"))


def run(**decoders: torch.Tensor):
    subjects = {name: Subject(sae_of(W)) for name, W in decoders.items()}
    study = ConsistencyStudy(show_progress=False)
    assert study.reason_all(subjects) is None
    return study.run_all(subjects, {})


def test_a_permuted_and_rescaled_copy_scores_one() -> None:
    W = random_rows(300)
    order = torch.randperm(300, generator=torch_generator(1))
    result = run(a=W, b=W[order] * torch.linspace(0.1, 9, 300)[:, None])
    assert len(result.estimates) == 5
    for name, estimate in result.estimates.items():
        assert estimate.value == pytest.approx(1.0, abs=1e-6), name
        assert estimate.low == pytest.approx(1.0, abs=1e-6)
        assert estimate.tokens == 300
    table = result.tables["a ~ b"]
    assert len(table.rows) == 20
    assert all(int(order[row[2]]) == row[1] for row in table.rows)  # type: ignore[index]


def test_an_opposite_feature_is_another_one() -> None:
    W = torch.eye(24)
    turned = W.clone()
    turned[:6] *= -1
    v = run(a=W, b=turned).values
    # The opposites are matched among each other, at right angles.
    assert v["consistency_cosine/a ~ b"] == pytest.approx(18 / 24)
    assert v["consistency_share_0.9/a ~ b"] == pytest.approx(18 / 24)


def test_widths_may_differ_and_zero_rows_match_nothing() -> None:
    W = random_rows(120)
    big = torch.cat([random_rows(80, seed=7), W, torch.zeros(5, 24)])
    result = run(small=W, big=big)
    v = result.values
    assert v["consistency_cosine/small ~ big"] == pytest.approx(1)
    assert v["consistency_mmcs/small in big"] == pytest.approx(1)
    a, b = unit_rows(big), unit_rows(W)
    expected = np.mean([max(float(x @ y) for y in b) for x in a])
    assert v["consistency_mmcs/big in small"] == pytest.approx(expected)
    assert result.estimates["consistency_cosine/small ~ big"].tokens == 120
    assert result.estimates["consistency_mmcs/big in small"].tokens == 205
    low, value, high = (
        getattr(result.estimates["consistency_mmcs/big in small"], name) for name in ("low", "value", "high")
    )
    assert low < value < high


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 4)])
@pytest.mark.parametrize("dense_pairs", [10_000, 0])
def test_the_match_is_the_best_one(shape: tuple[int, int], dense_pairs: int) -> None:
    a, b = unit_rows(random_rows(shape[0], 3)), unit_rows(random_rows(shape[1], 3, seed=5))
    cosines = (a @ b.T).numpy()
    small = cosines if shape[0] <= shape[1] else cosines.T
    # The sparse match may leave a pair out rather than take a negative cosine.
    gain = np.maximum(small, 0) if dense_pairs == 0 else small
    best = max(sum(gain[i, j] for i, j in enumerate(p)) for p in permutations(range(small.shape[1]), small.shape[0]))
    rows, columns, found = match(a, b, dense_pairs=dense_pairs)
    assert found.sum() == pytest.approx(best)
    np.testing.assert_allclose(cosines[rows, columns], found)
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert (np.diff(rows) > 0).all()


def test_the_sparse_graph_finds_what_the_dense_one_finds() -> None:
    W = random_rows(400, 48)
    order = torch.randperm(400, generator=torch_generator(1))
    noisy = W[order] + 0.4 * random_rows(400, 48, seed=3)
    a, b = unit_rows(W), unit_rows(torch.cat([noisy, random_rows(60, 48, seed=4)]))
    dense, sparse = match(a, b), match(a, b, dense_pairs=0)
    assert sparse[2].sum() / 400 == pytest.approx(dense[2].mean(), abs=2e-3)
    exact = match(a, a[order], dense_pairs=0)
    assert exact[2].mean() == pytest.approx(1, abs=1e-9)
    cosines, rows = nearest(a, b)
    assert torch.equal(cosines, (a @ b.T).gather(1, rows[:, None])[:, 0])
    assert torch.equal(cosines, (a @ b.T).amax(1))


def test_three_saes_are_compared_pair_by_pair_and_other_widths_are_noted() -> None:
    W = random_rows(30)
    result = run(a=W, b=W, c=random_rows(30, seed=2), other=random_rows(30, 7))
    assert set(result.tables) == {"a ~ b", "a ~ c", "b ~ c"}
    assert len(result.notes) == 3
    assert "widths 24 and 7: not compared" in result.notes[0]
    study = ConsistencyStudy()
    assert "at least two" in (study.reason_all({"a": Subject(sae_of(W))}) or "")
    reason = study.reason_all({"a": Subject(sae_of(W)), "b": Subject(sae_of(random_rows(5, 7)))})
    assert reason is not None
    assert "widths 24, 7" in reason


def test_other_sites_are_noted() -> None:
    subjects = {name: Subject(sae_of(random_rows(9))) for name in "ab"}
    subjects["a"].sae.metadata = {"sites": {"read": ["x"], "write": ["x"]}}
    subjects["b"].sae.metadata = {"sites": {"read": ["y"], "write": ["y"]}}
    assert "different sites" in ConsistencyStudy(show_progress=False).run_all(subjects, {}).notes[0]
