"""Clusters of features that fire together: planted groups are found, cohesion and examples against dense NumPy."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.sae import TopKSAE
from sae_lightning.studies import Result, Subject
from sae_lightning.studies.analysis import clusters
from sae_lightning.studies.analysis.clusters import ClustersStudy
from tests.store.planted import Planted, planted_store

# Features 2 to 7 in groups of 4, 2 (too few) and, further up, 5; 0 is dense, 1 dead, the rest fire alone.
GROUPS = ([12, 13, 14, 15, 16], [2, 3, 5, 7], [4, 6])
D_SAE = 24


def grouped(n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    out = np.zeros((n, D_SAE), np.float32)
    out[:, 0] = rng.random(n) < 0.7
    for feature in range(8, D_SAE):
        out[:, feature] = rng.random(n) < 0.01
    for group in GROUPS:
        topic = rng.random(n) < 0.08
        for feature in group:
            out[:, feature] = topic & (rng.random(n) < 0.7)
    return out * rng.choice([0.25, 0.5, 1.0], (n, D_SAE)).astype(np.float32)


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return planted_store(tmp_path, d_sae=D_SAE, dense=grouped)


def run(planted: Planted, **settings) -> Result:
    torch.manual_seed(0)
    subject = Subject(TopKSAE(8, planted.store.d_sae, k=4), store=planted.store)
    study = ClustersStudy(**{"min_count": 8, "resolution": 1.0, "show_progress": False, **settings})
    assert study.reason(subject) is None
    return study.run(subject)


@pytest.mark.parametrize("measure", ["jaccard", "pmi", "correlation"])
def test_planted_groups_are_the_clusters(planted: Planted, measure) -> None:
    result = run(planted, measure=measure)
    cluster = result.arrays["cluster"]
    assert cluster.dtype == np.int32
    expected = np.full(D_SAE, -1)
    expected[GROUPS[0]], expected[GROUPS[1]] = 0, 1
    np.testing.assert_array_equal(cluster, expected)
    assert "2 clusters hold 9 of 24 features; 1 fire on more than 10%" in result.notes[0]
    sizes = [(row[0], row[1]) for row in result.tables["clusters"].rows]
    assert sizes == [(0, 5), (1, 4)]
    again = run(planted, measure=measure)
    assert again.to_json() == result.to_json()


def test_two_are_a_cluster_where_they_may(planted: Planted) -> None:
    assert set(run(planted, min_size=2).arrays["cluster"][[4, 6]]) == {2}


def test_cohesion_is_the_share_of_the_others_that_fire_too(planted: Planted) -> None:
    fires = planted.dense != 0
    for number, _, _, cohesion in run(planted).tables["clusters"].rows:
        group = GROUPS[int(number)]  # type: ignore[arg-type]
        shares = []
        for feature in group:
            others = [other for other in group if other != feature]
            shares += [fires[token, others].mean() for token in np.flatnonzero(fires[:, feature])]
        assert cohesion == pytest.approx(np.mean(shares), rel=1e-12)
        assert 0.5 < cohesion < 0.9  # type: ignore[operator]


def test_features_are_named_from_the_best_connected_on(planted: Planted) -> None:
    fires = planted.dense != 0
    result = run(planted, named=3)
    for number, _, named, _ in result.tables["clusters"].rows:
        group = GROUPS[int(number)]  # type: ignore[arg-type]
        weight = dict.fromkeys(group, 0.0)
        for i, j in combinations(group, 2):
            jaccard = (fires[:, i] & fires[:, j]).sum() / (fires[:, i] | fires[:, j]).sum()
            weight[i] += jaccard
            weight[j] += jaccard
        best = sorted(group, key=lambda feature: (-weight[feature], feature))[:3]
        assert named == " ".join(map(str, best)) + " ..."


@pytest.mark.parametrize("pairs", [1 << 22, 40])
def test_shared_examples_are_the_tokens_with_the_most_of_its_features(
    planted: Planted, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "_PAIRS", pairs)
    table = run(planted, examples=6, context=3).tables["shared_examples"]
    fires, store = planted.dense != 0, planted.store
    share = planted.dense / np.maximum(planted.dense.max(0), 0.25)
    for number in (0, 1):
        group = GROUPS[number]
        active, strength = fires[:, group].sum(1), share[:, group].sum(1)  # multiples of 1/4: equal ones are equal
        best = []
        for t in sorted(np.flatnonzero(active >= 2), key=lambda t: (-active[t], -strength[t], t))[: 8 * 6]:
            if store.text_index[t] not in {store.text_index[other] for other in best}:
                best.append(t)
        best = best[:6]
        rows = [row for row in table.rows if row[0] == number]
        assert [(row[1], row[5]) for row in rows] == [(t, active[t]) for t in best]
        for _, token, before, piece, after, _ in rows:
            assert planted.kept[token]  # type: ignore[index]
            text = planted.texts[int(store.text_index[token])]  # type: ignore[index]
            assert f"{before}{piece}{after}" in text
            assert [piece] == store.pieces(token, token + 1)  # type: ignore[arg-type, operator]


def test_signs_change_nothing(planted: Planted, tmp_path: Path) -> None:
    def signed(n: int) -> np.ndarray:
        return grouped(n) * np.random.default_rng(8).choice([-1, 1], (n, D_SAE)).astype(np.float32)

    other = planted_store(tmp_path / "signed", d_sae=D_SAE, dense=signed)
    assert (other.dense < 0).sum() > 100
    assert run(other).to_json() == run(planted).to_json()


def test_what_is_alike_to_the_letter_is_shown_once(tmp_path: Path) -> None:
    texts = ["the same news again", "the same news again", "the same news again", "other news of the day"] * 6
    planted = planted_store(tmp_path, d_sae=D_SAE, dense=grouped, texts=texts)
    for context in (0, 30):
        rows = run(planted, examples=3, context=context).tables["shared_examples"].rows
        shown = [row[:1] + row[2:5] for row in rows]
        assert len(set(shown)) == len(shown) > 2
        texts_of = [(row[0], planted.store.text_index[row[1]]) for row in rows]  # type: ignore[index]
        assert len(set(texts_of)) == len(texts_of)


def test_a_higher_resolution_makes_smaller_clusters(planted: Planted) -> None:
    assert run(planted, min_size=2, resolution=8.0).tables["clusters"].rows[0][1] < 5  # type: ignore[operator]


def test_no_more_clusters_are_shown_than_asked_for(planted: Planted) -> None:
    result = run(planted, shown=1)
    assert {row[0] for name in ("clusters", "shared_examples") for row in result.tables[name].rows} == {0}
    assert "the first 1 of 2 clusters" in result.tables["clusters"].caption
    assert result.arrays["cluster"].max() == 1


def test_features_that_fire_alone_make_no_clusters(tmp_path: Path) -> None:
    def alone(n: int) -> np.ndarray:
        return np.eye(6, dtype=np.float32)[np.arange(n) % 6]

    result = run(planted_store(tmp_path, d_sae=6, dense=alone), max_density=1.0)
    assert (result.arrays["cluster"] == -1).all()
    assert not result.tables["clusters"].rows
    assert not result.tables["shared_examples"].rows
    assert "0 clusters hold 0 of 6 features" in result.notes[0]


def test_without_a_store_there_are_none() -> None:
    assert "needs a feature store" in (ClustersStudy().reason(Subject(TopKSAE(8, 24, k=4))) or "")
