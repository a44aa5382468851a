"""Tokens on which two features fire together, and their partners, against dense matrices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.studies import association, cofiring
from sae_lightning.studies.association import strongest_partners
from sae_lightning.studies.cofiring import pair_counts
from tests.store.planted import Planted, planted_store


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return planted_store(tmp_path, d_sae=30, density=0.2)


SIZES = ({}, {"_SUMS": 2000, "_PIECE": 60, "_STRETCH": (70, 70)}, {"_EXACT": 50, "_STRETCH": (90, 90)})


def brute_counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros((a.shape[1], b.shape[1]), np.int64)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            out[i, j] = np.sum((a[:, i] != 0) & (b[:, j] != 0))
    return out


def dense_of(measure: str, planted: Planted) -> np.ndarray:
    """Return a measure of all pairs, from the kept rows of the dense matrix."""
    rows = planted.dense[planted.kept].astype(np.float64)
    n, d = rows.shape
    out = np.full((d, d), np.nan)
    for i in range(d):
        for j in range(d):
            a, b = rows[:, i] != 0, rows[:, j] != 0
            if measure == "jaccard" and (a | b).any():
                out[i, j] = (a & b).sum() / (a | b).sum()
            if measure == "pmi" and a.any() and b.any():
                with np.errstate(divide="ignore"):
                    out[i, j] = np.log((a & b).mean() / (a.mean() * b.mean()))
            if measure == "correlation" and rows[:, i].std() and rows[:, j].std():
                out[i, j] = np.corrcoef(rows[:, i], rows[:, j])[0, 1]
    assert n < len(planted.dense)
    return out


def brute_partners(planted: Planted, measure: str, n: int, min_count: int) -> np.ndarray:
    counts = brute_counts(planted.dense, planted.dense)
    scores, pmi = dense_of(measure, planted).astype(np.float32), dense_of("pmi", planted)
    out = np.full((len(counts), n), -1)
    for i in range(len(counts)):
        able = [
            j
            for j in range(len(counts))
            if j != i and counts[i, j] >= min_count and pmi[i, j] > 1e-12 and scores[i, j] > 0
        ]
        best = sorted(able, key=lambda j: (-scores[i, j], j))[:n]
        out[i, : len(best)] = best
    return out


@pytest.mark.parametrize("mkl", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_counts_and_products_are_those_of_the_dense_matrix(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, Any], mkl: bool
) -> None:
    if mkl and not torch.backends.mkl.is_available():
        pytest.skip("this torch has no MKL")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    for name, value in sizes.items():
        monkeypatch.setattr(cofiring, name, value)
    parts = list(cofiring.cofiring(planted.store, products=True, show=False))
    assert len(parts) > 1 or not sizes.get("_PIECE")
    np.testing.assert_array_equal(np.concatenate([part.features for part in parts]), np.arange(30))
    counts = np.concatenate([part.counts for part in parts])
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, brute_counts(planted.dense, planted.dense))
    products = np.concatenate([part.products for part in parts if part.products is not None])
    rows = planted.dense.astype(np.float64)
    np.testing.assert_allclose(products, rows.T @ rows, rtol=1e-13)


def test_some_features_in_any_order_and_those_of_another_store(planted: Planted, tmp_path: Path) -> None:
    other = planted_store(tmp_path, d_sae=17, density=0.3, seed=0, name="other", texts=planted.texts)
    chosen = [7, 0, 29, 1]
    np.testing.assert_array_equal(
        pair_counts(planted.store, chosen, show=False), brute_counts(planted.dense[:, chosen], planted.dense)
    )
    np.testing.assert_array_equal(
        pair_counts(planted.store, chosen, other=other.store, show=False),
        brute_counts(planted.dense[:, chosen], other.dense),
    )
    assert pair_counts(planted.store, [], show=False).shape == (0, 30)
    with pytest.raises(UserError, match="feature 30: the SAE of this store has features 0 to 29"):
        pair_counts(planted.store, [3, 30], show=False)


def test_a_store_in_which_nothing_fires_has_no_pairs(tmp_path: Path) -> None:
    silent = planted_store(tmp_path, d_sae=5, dense=lambda n: np.zeros((n, 5), np.float32))
    np.testing.assert_array_equal(pair_counts(silent.store, [2, 4], show=False), np.zeros((2, 5)))
    assert (strongest_partners(silent.store, "pmi", 3, show=False).partner == -1).all()


@pytest.mark.parametrize("measure", ["jaccard", "pmi", "correlation"])
@pytest.mark.parametrize("min_count", [1, 6])
def test_partners_are_those_of_the_dense_matrix(planted: Planted, measure: association.Measure, min_count: int) -> None:
    found = strongest_partners(planted.store, measure, 4, min_count=min_count, correlations=True, show=False)
    np.testing.assert_array_equal(found.partner, brute_partners(planted, measure, 4, min_count))
    assert (found.partner[1] == -1).all()  # the dead one
    rows, places = np.nonzero(found.partner >= 0)
    at = rows, found.partner[rows, places]
    np.testing.assert_array_equal(found.count[rows, places], brute_counts(planted.dense, planted.dense)[at])
    for name in ("jaccard", "pmi", "correlation"):
        values = getattr(found, name)
        np.testing.assert_allclose(values[rows, places], dense_of(name, planted)[at], rtol=1e-5, atol=1e-7)
        assert np.isnan(values[found.partner < 0]).all()
    assert (found.count[found.partner < 0] == 0).all()


def test_equal_partners_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    def twins(n: int) -> np.ndarray:
        fires = np.random.default_rng(0).random((n, 2)) < 0.2
        return np.repeat(fires, 4, axis=1).astype(np.float32)  # 0 to 3 fire together, and so do 4 to 7

    found = strongest_partners(planted_store(tmp_path, d_sae=8, dense=twins).store, "jaccard", 2, show=False)
    np.testing.assert_array_equal(found.partner, [[1, 2], [0, 2], [0, 1], [0, 1], [5, 6], [4, 6], [4, 5], [4, 5]])
    assert (found.jaccard == 1).all()


def test_a_feature_that_never_changes_has_no_correlation(tmp_path: Path) -> None:
    def always(n: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        return np.stack([np.full(n, 0.7), rng.random(n), rng.random(n) * (rng.random(n) < 0.5)], axis=1).astype("f4")

    planted = planted_store(tmp_path, d_sae=3, dense=always, masked=0.0)
    scores: list[np.ndarray] = []
    strongest_partners(planted.store, "correlation", 2, each=lambda part: scores.append(part.copy()), show=False)
    found = np.concatenate(scores)
    assert np.isnan(found[0]).all()
    assert np.isnan(found[:, 0]).all()
    np.testing.assert_allclose(found[1:, 1:], np.corrcoef(planted.dense[:, 1:].T), rtol=1e-5)


def test_features_left_out_are_nobodys_partner(planted: Planted) -> None:
    left_out = np.zeros(30, np.bool_)
    left_out[[0, 5, 9]] = True
    found = strongest_partners(planted.store, "jaccard", 29, left_out=left_out, show=False)
    assert not np.isin(found.partner, [0, 5, 9]).any()
    assert (found.partner[[0, 5, 9]] == -1).all()
    assert np.isnan(found.correlation).all()
