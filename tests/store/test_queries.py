"""Every query against dense NumPy."""

from pathlib import Path

import numpy as np
import pytest

from sae_lightning.core import UserError
from sae_lightning.store import FeatureStore
from tests.store.planted import Planted, planted_store


@pytest.fixture(scope="module", params=[0, 1])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return planted_store(tmp_path_factory.mktemp("store"), seed=request.param)


def ranked(column: np.ndarray, lowest: bool) -> list[tuple[int, float]]:
    """Active tokens by value, of equal ones the earlier first: a sort in plain Python."""
    pairs = [(token, float(value)) for token, value in enumerate(column) if value != 0]
    return sorted(pairs, key=lambda pair: (abs(pair[1]) if lowest else -abs(pair[1]), pair[0]))


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("n", [1, 3, 7, 10_000])
def test_top_tokens(planted: Planted, n: int, lowest: bool) -> None:
    for feature in range(planted.store.d_sae):
        found = planted.store.top_tokens(feature, n, lowest)
        wanted = ranked(planted.dense[:, feature], lowest)[:n]
        assert list(zip(found.tokens.tolist(), found.values.tolist(), strict=True)) == wanted
        assert planted.kept[found.tokens].all()


def test_features_at(planted: Planted) -> None:
    for token in range(planted.store.n_tokens):
        features, values = planted.store.features_at(token)
        row = planted.dense[token]
        wanted = sorted(np.flatnonzero(row).tolist(), key=lambda f: (-row[f], f))
        assert features.tolist() == wanted
        assert values.tolist() == row[wanted].tolist()
        assert planted.kept[token] or not len(features)


def test_both_forms_are_the_matrix_and_share_the_files_memory(planted: Planted) -> None:
    for by, part in (("token", planted.store.csr), ("feature", planted.store.csc)):
        matrix = planted.store.to_scipy(by)  # pyright: ignore[reportArgumentType]
        assert np.array_equal(matrix.toarray(), planted.dense)
        for ours, theirs in ((part.values, matrix.data), (part.indices, matrix.indices), (part.offsets, matrix.indptr)):
            assert np.shares_memory(ours, theirs)
        assert matrix.has_sorted_indices


def test_stretches_of_one_feature(planted: Planted) -> None:
    n = planted.store.n_tokens
    for feature in range(planted.store.d_sae):
        for first, last in ((0, n), (5, 6), (n - 3, n), (4, 4), (10, 40)):
            found = planted.store.values_at(feature, first, last)
            assert np.array_equal(found, planted.dense[first:last, feature])


def test_statistics(planted: Planted) -> None:
    stats, dense = planted.store.stats, planted.dense.astype(np.float64)
    assert np.array_equal(stats.count, (dense != 0).sum(0))
    assert np.allclose(stats.total, dense.sum(0), rtol=1e-12)
    assert np.allclose(stats.squares, (dense**2).sum(0), rtol=1e-12)
    assert np.array_equal(stats.largest, planted.dense.max(0))
    assert planted.store.n_kept == planted.kept.sum()


@pytest.mark.parametrize(("bins", "n"), [(1, 4), (5, 2), (4, 1000)])
def test_quantile_samples(planted: Planted, bins: int, n: int) -> None:
    for feature in range(planted.store.d_sae):
        column = planted.dense[:, feature]
        samples = planted.store.quantile_samples(feature, bins, n, seed=3)
        assert len(samples) == bins
        edges = np.linspace(0, float(column.max()), bins + 1)
        for number, sample in enumerate(samples):
            low, high = edges[bins - number - 1], edges[bins - number]
            assert (sample.low, sample.high) == (low, high)
            inside = np.flatnonzero((column > low) & (column <= high))
            assert len(sample.tokens) == min(n, len(inside))
            assert len(set(sample.tokens.tolist())) == len(sample.tokens)
            assert set(sample.tokens.tolist()) <= set(inside.tolist())
            assert np.array_equal(column[sample.tokens], sample.values)
            assert (np.diff(sample.values) <= 0).all()
        again = planted.store.quantile_samples(feature, bins, n, seed=3)
        assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(samples, again, strict=True))
        if n < 1000:
            # Every member of a full slice is drawn by some seed: the draw is no fixed choice.
            drawn = {t for s in range(40) for t in planted.store.quantile_samples(feature, 1, 1, seed=s)[0].tokens}
            assert len(drawn) >= min(2, int((column > 0).sum()))


def test_negative_activations_are_as_strong_as_positive_ones(tmp_path: Path) -> None:
    def signed(n: int) -> np.ndarray:
        rng = np.random.default_rng(5)
        return (rng.standard_normal((n, 4)) * (rng.random((n, 4)) < 0.2)).astype(np.float32)

    planted = planted_store(tmp_path, d_sae=4, dense=signed)
    seen = []
    for feature in range(4):
        column = planted.dense[:, feature]
        for lowest in (False, True):
            found = planted.store.top_tokens(feature, 5, lowest)
            wanted = ranked(column, lowest)[:5]
            assert list(zip(found.tokens.tolist(), found.values.tolist(), strict=True)) == wanted
            seen += found.values.tolist()
        assert planted.store.stats.largest[feature] == np.abs(column).max()
        samples = planted.store.quantile_samples(feature, bins=3, n=1000)
        assert sum(len(sample.tokens) for sample in samples) == (column != 0).sum()
        for sample in samples:
            assert (np.abs(sample.values) > sample.low).all()
            assert (np.abs(sample.values) <= sample.high).all()
    assert min(seen) < 0 < max(seen)


def test_a_store_without_any_activation(tmp_path: Path) -> None:
    store = planted_store(tmp_path, dense=lambda n: np.zeros((n, 3), np.float32), d_sae=3).store
    assert store.nnz == 0
    assert len(store.top_tokens(0).tokens) == 0
    assert [len(sample.tokens) for sample in store.quantile_samples(2)] == [0] * 5
    assert store.to_scipy().nnz == 0
    assert store.stats.largest.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.top_tokens(12), "feature 12: the SAE of this store has features 0 to 11"),
        (lambda s: s.top_tokens(-1), "feature -1"),
        (lambda s: s.top_tokens(0, n=0), "n=0"),
        (lambda s: s.features_at(10**9), "token 1000000000: the store has tokens 0 to"),
        (lambda s: s.context(-1), "token -1"),
        (lambda s: s.context(0, before=-1), "before=-1"),
        (lambda s: s.context(0, unit="letters"), "unit='letters'"),
        (lambda s: s.quantile_samples(0, bins=0), "bins=0"),
        (lambda s: s.text(999), "text 999"),
        (lambda s: s.pieces(5, 4), "tokens 5 to 4"),
        (lambda s: s.to_scipy(by="row"), "by='row'"),
        (lambda s: s.activations_over("text", [99]), "feature 99"),
        (lambda s: s.activations_over("text"), "the SAE that the store was made with is not there"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(planted: Planted, call, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        call(FeatureStore.open(planted.store.path))
    assert "\n" not in str(error.value)
