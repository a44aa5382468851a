"""Features that fire together: arrays, the table and the matrix of all pairs against dense NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError
from sae_lightning.sae import TopKSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.analysis.cooccurrence import CooccurrenceStudy
from sae_lightning.studies.association import Measure
from tests.store.planted import Planted, planted_store
from tests.studies.test_cofiring import brute_counts, brute_partners, dense_of


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return planted_store(tmp_path, d_sae=24, density=0.2)


def subject(planted: Planted) -> Subject:
    torch.manual_seed(0)
    return Subject(TopKSAE(8, planted.store.d_sae, k=4), store=planted.store)


@pytest.mark.parametrize("measure", ["jaccard", "pmi", "correlation"])
def test_arrays_and_table_are_those_of_the_dense_matrix(planted: Planted, measure: Measure) -> None:
    study = CooccurrenceStudy(measure, n=3, min_count=3, shown=7, show_progress=False)
    assert study.reason(subject(planted)) is None
    result = study.run(subject(planted))
    arrays = result.arrays
    kinds = {"partner": "i4", "partner_count": "i8"}
    kinds |= {f"partner_{name}": "f4" for name in ("jaccard", "pmi", "correlation")}
    assert {name: value.dtype.str[1:] for name, value in arrays.items()} == kinds
    assert all(value.shape == (24, 3) for value in arrays.values())
    expected = brute_partners(planted, measure, 3, 3)
    np.testing.assert_array_equal(arrays["partner"], expected)
    there = expected >= 0
    rows = np.nonzero(there)[0]
    for name in ("jaccard", "pmi", "correlation"):
        full = dense_of(name, planted)
        np.testing.assert_allclose(arrays[f"partner_{name}"][there], full[rows, expected[there]], rtol=1e-5, atol=1e-7)
    counts = brute_counts(planted.dense, planted.dense)
    pairs = {tuple(sorted((i, int(j)))) for i, row in enumerate(expected) for j in row if j >= 0}
    score = dense_of(measure, planted)
    best = sorted(pairs, key=lambda pair: (-score[pair], pair))[:7]
    table = result.tables["pairs"]
    assert [row[:2] for row in table.rows] == best
    for i, j, count, *measures in table.rows:
        assert count == counts[i, j]  # type: ignore[index]
        for name, value in zip(("jaccard", "pmi", "correlation"), measures, strict=True):
            assert value == pytest.approx(dense_of(name, planted)[i, j], rel=1e-5, abs=1e-7)  # type: ignore[index]
    assert "have no partner (on 3 tokens or more)" in result.notes[0]  # the dead one at least


@pytest.mark.parametrize("measure", ["jaccard", "pmi", "correlation"])
def test_the_matrix_holds_all_pairs(
    planted: Planted, tmp_path: Path, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_lightning.studies.cofiring._PIECE", 24 * 5)  # five rows at a time
    path = tmp_path / "new" / "pairs.npy"
    with_it = CooccurrenceStudy(measure, matrix=str(path), show_progress=False).run(subject(planted))
    found = np.load(path, mmap_mode="r")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, dense_of(measure, planted), rtol=1e-5, atol=1e-7)
    without = CooccurrenceStudy(measure, show_progress=False).run(subject(planted))
    for name, values in without.arrays.items():
        np.testing.assert_array_equal(with_it.arrays[name], values)
    assert [file.name for file in path.parent.iterdir()] == ["pairs.npy"]


def test_mistakes_are_told_in_one_line(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"matrix=pairs.txt: must end in .npy"):
        CooccurrenceStudy(matrix="pairs.txt")
    assert "needs a feature store" in (CooccurrenceStudy().reason(Subject(TopKSAE(8, 24, k=4))) or "")
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    study = CooccurrenceStudy(matrix=str(tmp_path / "pairs.npy"), show_progress=False)
    with pytest.raises(UserError, match="GB are free; choose another place"):
        study.run(subject(planted))
    assert not (tmp_path / "pairs.npy").exists()


def test_more_partners_than_features_are_all_there_are(planted: Planted) -> None:
    result = CooccurrenceStudy("jaccard", n=100, min_count=1, show_progress=False).run(subject(planted))
    np.testing.assert_array_equal(result.arrays["partner"], brute_partners(planted, "jaccard", 24, 1))
