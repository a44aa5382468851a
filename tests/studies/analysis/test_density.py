"""Density of features against dense arrays: counts, shares, histograms, intervals, chunks that change nothing."""

import itertools

import numpy as np
import pytest
import torch

from sae_lightning.metrics import bootstrap_weights, interval
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject, firings
from sae_lightning.studies.analysis import density as module
from sae_lightning.studies.analysis.density import DensityStudy
from tests.store.planted import Planted, made_up_texts, planted_store


def subject(planted: Planted) -> Subject:
    return Subject(StandardSAE(4, planted.store.d_sae), store=planted.store)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return planted_store(tmp_path_factory.mktemp("density"), density=0.04, d_sae=30)


def run(planted: Planted, **settings):
    study = DensityStudy(**{"rare_below": 0.03, "show_progress": False, "draws": 200, **settings})
    assert study.reason(subject(planted)) is None
    return study.run(subject(planted))


def test_arrays_and_shares(planted: Planted) -> None:
    result = run(planted, dense_above=0.06)
    active = planted.dense > 0
    n = planted.kept.sum()
    count = active.sum(0)
    np.testing.assert_array_equal(result.arrays["count"], count)
    np.testing.assert_allclose(result.arrays["density"], count / n)
    mean = [
        column[column > 0].astype(np.float64).mean() if (column > 0).any() else np.nan for column in planted.dense.T
    ]
    np.testing.assert_allclose(result.arrays["mean"], mean)
    np.testing.assert_array_equal(result.arrays["largest"], planted.dense.max(0))
    assert {name: array.dtype for name, array in result.arrays.items()} == {
        "count": np.int64, "density": np.float64, "mean": np.float64, "largest": np.float32, "information": np.float64
    }  # fmt: skip
    rare = (count > 0) & (count < 0.03 * n)
    assert 0 < rare.sum() < 30
    v = result.values
    assert v["l0"] == pytest.approx(active.sum() / n)
    assert v["dead"] == pytest.approx((count == 0).mean())
    assert v["rare"] == pytest.approx(rare.mean())
    assert v["dense_share"] == pytest.approx((count > 0.06 * n).mean())
    assert {e.tokens for e in result.estimates.values()} == {n}


def test_tables(planted: Planted) -> None:
    result = run(planted, bins=8, shown=3)
    count = (planted.dense > 0).sum(0)
    n = int(planted.kept.sum())
    histogram = result.tables["density_histogram"].rows
    logs = np.log10(count[count > 0] / n)
    assert histogram[0][0] == -np.ceil(np.log10(n))
    for low, high, features in histogram:
        assert features == int(((logs >= low) & ((logs < high) | (high == 0.0))).sum())
    l0 = (planted.dense > 0).sum(1)[planted.kept]
    rows = result.tables["l0_histogram"].rows
    assert len(rows) <= 8
    assert sum(row[2] for row in rows) == n  # type: ignore[misc]
    for low, high, tokens in rows:
        assert tokens == int(((l0 >= low) & (l0 < high)).sum())
    dead, rare = result.tables["dead"], result.tables["rare"]
    assert [row[0] for row in dead.rows] == np.flatnonzero(count == 0)[:3].tolist()
    order = sorted((int(c), i) for i, c in enumerate(count) if 0 < c < 0.03 * n)
    assert [(row[1], row[0]) for row in rare.rows] == order[:3]
    assert "the first 3" in rare.caption
    assert f"{(count == 0).sum()} of 30 features never fire" in dead.caption


def test_intervals_are_a_bootstrap_over_texts(planted: Planted) -> None:
    result = run(planted)
    starts, texts = planted.store.text_starts, planted.store.n_texts
    active = planted.dense > 0
    parts = [slice(a, b) for a, b in itertools.pairwise(starts)]
    draws: dict[str, list[float]] = {"l0": [], "dense_share": []}
    for weights in bootstrap_weights(texts, 200, 0).numpy().astype(int):
        tokens = np.concatenate(
            [np.arange(p.start, p.stop) for p, w in zip(parts, weights, strict=True) for _ in range(w)]
        )
        n = planted.kept[tokens].sum()
        draws["l0"].append(active[tokens].sum() / n)
        draws["dense_share"].append(float((active[tokens].sum(0) > 0.1 * n).mean()))
    for name, drawn in draws.items():
        np.testing.assert_allclose(result.draws[name], drawn)
        estimate = result.estimates[name]
        assert (estimate.low, estimate.high) == pytest.approx(interval(estimate.value or 0.0, np.array(drawn), texts))
    for name in ("dead", "rare"):
        estimate = result.estimates[name]
        assert estimate.low is not None
        assert estimate.low <= estimate.value <= estimate.high  # type: ignore[operator]


def test_groups_of_texts_and_chunks_change_no_figure(planted: Planted, monkeypatch) -> None:
    before = run(planted)
    monkeypatch.setattr(module, "_CHUNK", 5)
    monkeypatch.setattr(firings, "_CHUNK", 5)
    again = run(planted)
    assert again.estimates == before.estimates
    assert again.tables == before.tables
    monkeypatch.setattr(firings, "_GROUPS", 9)
    grouped = run(planted)
    assert grouped.values == pytest.approx(before.values)
    assert grouped.estimates["l0"].low is not None
    assert grouped.tables == before.tables


def test_few_texts_give_no_interval_and_say_so(tmp_path) -> None:
    planted = planted_store(tmp_path, texts=made_up_texts(5))
    result = run(planted)
    assert result.notes == ("5 texts: intervals need at least 8; index more of them",)
    assert result.estimates["l0"].low is None


def test_rare_is_not_defined_where_one_firing_is_not(planted: Planted) -> None:
    n = planted.store.n_kept
    for share, defined in ((0.5 / n, False), (1 / n, False), (1.5 / n, True)):
        result = run(planted, rare_below=share)
        estimate, caption = result.estimates["rare"], result.tables["rare"].caption
        once = int(((planted.dense > 0).sum(0) == 1).sum())
        assert estimate.value == (once / 30 if defined else None)
        assert (estimate.low is not None) == defined
        assert ("rare is not defined" in caption) == (not defined)
        assert any("rare is not defined" in note for note in result.notes) == (not defined)
        assert len(result.tables["rare"].rows) == (once if defined else 0)


def test_a_store_is_needed() -> None:
    assert "feature store" in (DensityStudy().reason(Subject(StandardSAE(4, 6))) or "")


def test_a_store_without_a_kept_token(tmp_path) -> None:
    planted = planted_store(tmp_path, masked=1.1)
    result = run(planted)
    assert planted.store.n_kept == 0
    assert result.values["l0"] is None
    assert not result.arrays["count"].any()
    assert torch.isnan(torch.from_numpy(result.arrays["mean"])).all()
