"""Maps of decoder directions: neighbours by brute force, planted groups, who is left out, bits of a seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lightning.core import UserError, torch_generator
from sae_lightning.sae.standard import StandardSAE
from sae_lightning.studies import Subject
from sae_lightning.studies.analysis import layout
from sae_lightning.studies.analysis.layout import nearest_rows, nearest_to, umap_layout, unit_directions
from sae_lightning.studies.analysis.neighbourhood import NeighbourhoodStudy
from sae_lightning.studies.analysis.neighbourhoods import NeighbourhoodsStudy
from tests.store.planted import planted_store

GROUPS, EACH, D = 4, 30, 24


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are found in several chunks also where rows are few."""
    monkeypatch.setattr(layout, "_COSINES", 37 * 120)


def grouped(seed: int = 0, each: int = EACH) -> torch.Tensor:
    """Return rows near one of GROUPS directions (those of seed 0), of many lengths."""
    directions = torch.randn(GROUPS, D, generator=torch_generator(0, "tests", "directions"))
    g = torch_generator(seed, "tests", "grouped")
    rows = directions.repeat_interleave(each, 0) + 0.3 * torch.randn(GROUPS * each, D, generator=g)
    return rows * torch.linspace(0.1, 5, len(rows))[:, None]


def subject_of(rows: torch.Tensor) -> Subject:
    sae = StandardSAE(rows.shape[1], len(rows))
    sae.W_dec.data = rows.clone()
    return Subject(sae)


def study(**settings) -> NeighbourhoodStudy:
    return NeighbourhoodStudy(**{"show_progress": False, **settings})


def share_of_own(places: np.ndarray, group: np.ndarray) -> float:
    """Return how often a place's nearest place is of its own group."""
    distance = ((places[:, None] - places[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return float((group[distance.argmin(1)] == group).mean())


def test_neighbours_are_those_of_brute_force() -> None:
    rows = unit_directions(grouped())
    dense = rows.double().numpy()
    cosines = dense @ dense.T
    np.fill_diagonal(cosines, 2)
    numbers, distances = nearest_rows(rows, 9, show_progress=False)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(numbers, expected)
    np.fill_diagonal(cosines, 1)
    np.testing.assert_allclose(distances, 1 - np.take_along_axis(cosines, expected, 1), atol=1e-6)
    among = np.arange(len(rows)) % 2 == 1
    found, near = nearest_to(rows[3], rows, 5, among)
    odd = np.flatnonzero(among)
    np.testing.assert_array_equal(found, odd[np.argsort(-cosines[3, odd], kind="stable")[:5]])
    np.testing.assert_allclose(near, cosines[3, found], atol=1e-6)
    assert len(nearest_to(rows[3], rows, 500, among)[0]) == len(odd)


def test_groups_of_directions_are_groups_in_the_map_whatever_their_length() -> None:
    result = study().run(subject_of(grouped()))
    places = result.arrays["map"]
    assert places.shape == (GROUPS * EACH, 2)
    assert places.dtype == np.float32
    assert np.isfinite(places).all()
    np.testing.assert_allclose(places.mean(0), 0, atol=1e-4)
    assert share_of_own(places, np.arange(len(places)) // EACH) == 1.0


def test_the_seed_decides_to_the_last_bit() -> None:
    subject = subject_of(grouped())
    first, again, other = (study(seed=seed).run(subject).arrays["map"] for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert study(n_neighbors=40).run(subject).arrays["map"].tobytes() != first.tobytes()
    assert study(min_dist=0.9).run(subject).arrays["map"].tobytes() != first.tobytes()


def test_features_without_direction_and_dead_ones_have_no_place(tmp_path: Path) -> None:
    rows = grouped()[:40]
    rows[[3, 7]] = 0
    store = planted_store(tmp_path, d_sae=40).store
    dead = np.asarray(store.stats.count) == 0
    assert dead.any()
    subject = subject_of(rows)
    without = study().run(subject)
    nowhere = np.isnan(without.arrays["map"]).any(1)
    np.testing.assert_array_equal(np.flatnonzero(nowhere), [3, 7])
    assert without.notes == ("2 features without a direction (rows of zeros) are not in the map",)
    zeros = np.isin(np.arange(40), [3, 7])
    result = study().run(replace(subject, store=store))
    np.testing.assert_array_equal(np.isnan(result.arrays["map"]).any(1), zeros | dead)
    assert result.notes[0] == f"{dead.sum()} features that never fire in the store are not in the map"
    everywhere = study(dead=True).run(replace(subject, store=store))
    np.testing.assert_array_equal(np.isnan(everywhere.arrays["map"]).any(1), zeros)


@pytest.mark.parametrize("n", [1, 3, 4, 6, 20, 40])
def test_few_features_have_a_map_or_a_note(n: int) -> None:
    result = study().run(subject_of(grouped()[:n]))
    assert np.isfinite(result.arrays["map"]).all() == (n >= 4)
    assert any("needs at least 4" in note for note in result.notes) == (n < 4)


def test_equal_directions_are_no_trouble() -> None:
    rows = torch.cat([grouped()[:30]] * 3)
    assert np.isfinite(study().run(subject_of(rows)).arrays["map"]).all()


def test_around_some_features_are_they_and_their_nearest_alone() -> None:
    rows = grouped()
    result = study(around=[5, 64], nearest=10).run(subject_of(rows))
    unit = torch.nn.functional.normalize(rows.double(), dim=1).numpy()
    expected = set()
    table = result.tables["neighbours"]
    assert table.columns == ("around", "rank", "feature", "cosine", "x", "y")
    for feature in (5, 64):
        cosines = unit @ unit[feature]
        order = np.argsort(-cosines, kind="stable")[:11]
        mine = [row for row in table.rows if row[0] == feature]
        assert [row[2] for row in mine] == order.tolist()
        assert [row[1] for row in mine] == list(range(11))
        np.testing.assert_allclose([row[3] for row in mine], cosines[order], atol=1e-6)  # type: ignore[arg-type]
        for row in mine:
            np.testing.assert_array_equal(row[4:], result.arrays["map"][row[2]])  # type: ignore[index]
        expected |= set(order.tolist())
    assert set(np.flatnonzero(np.isfinite(result.arrays["map"]).all(1))) == expected


def test_a_feature_that_is_not_there_is_one_line() -> None:
    rows = grouped()[:20]
    rows[4] = 0
    for around, said in (
        ([3, 20], r"studies.neighbourhood.around=\[3, 20\]: the SAE has features 0 to 19, not 20"),
        ([4], "feature 4 has no direction"),
    ):
        with pytest.raises(UserError, match=said):
            study(around=around).run(subject_of(rows))
    with pytest.raises(UserError, match=r"studies.neighbourhoods.around=\[30\]"):
        together(a=rows, b=rows, around=[30])


def test_without_umap_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else real(name))
    with pytest.raises(UserError, match=r"neighbourhood: needs umap-learn; pip install 'sae_lightning\[analysis\]'"):
        study().run(subject_of(grouped()))
    with pytest.raises(UserError, match="neighbourhoods: needs umap-learn"):
        together(a=grouped(), b=grouped())


# Several SAEs


def together(around: list[int] | None = None, centre: bool = True, **rows: torch.Tensor):
    subjects = {name: subject_of(part) for name, part in rows.items()}
    return NeighbourhoodsStudy(centre=centre, around=around, nearest=6, show_progress=False).run_all(subjects, {})


def test_several_saes_share_a_map_once_each_is_centred() -> None:
    shift = 6 * torch.randn(D, generator=torch_generator(2))
    unit = torch.nn.functional.normalize
    narrow, wide = unit(grouped(1, 10), dim=1), unit(grouped(2, 25), dim=1)
    # What all of the wide one's features have in common.
    wide = unit(wide + unit(shift, dim=0), dim=1)
    result = together(narrow=narrow, wide=wide)
    maps = result.arrays
    assert {name: part.shape for name, part in maps.items()} == {"map/narrow": (40, 2), "map/wide": (100, 2)}
    group = np.concatenate([np.arange(40) // 10, np.arange(100) // 25])
    of = np.arange(140) >= 40

    def mixed(places: np.ndarray) -> float:
        """Return how often the nearest places of the other SAE are of the same group."""
        distance = ((places[~of][:, None] - places[of][None]) ** 2).sum(-1)
        return float((group[of][distance.argmin(1)] == group[~of]).mean())

    both = np.concatenate([maps["map/narrow"], maps["map/wide"]])
    assert mixed(both) > 0.95
    # A feature is nearer to the other SAE's of its group than the other SAE as a whole is.
    raw = together(narrow=narrow, wide=wide, centre=False).arrays
    apart = np.concatenate([raw["map/narrow"], raw["map/wide"]])

    def other_share(places: np.ndarray) -> float:
        distance = ((places[:, None] - places[None]) ** 2).sum(-1)
        np.fill_diagonal(distance, np.inf)
        nearest = np.argsort(distance, axis=1)[:, :10]
        return float((of[nearest] != of[:, None])[~of].mean())

    assert other_share(both) > other_share(apart) + 0.2
    again = together(narrow=narrow, wide=wide).arrays
    assert all(again[name].tobytes() == maps[name].tobytes() for name in maps)


def test_centred_directions_are_centred_by_hand() -> None:
    rows = grouped()[:30]
    rows[5] = 0
    alive = np.arange(30) != 5
    dense = rows.double().numpy()
    unit = dense[alive] / np.linalg.norm(dense[alive], axis=1, keepdims=True)
    moved = unit - unit.mean(0)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    found = unit_directions(rows, centre=True).numpy()
    np.testing.assert_allclose(found[alive], moved, atol=1e-6)
    assert not found[5].any()


def test_around_a_feature_of_the_first_every_sae_has_its_nearest() -> None:
    narrow, wide = grouped(1, 10), grouped(2, 25)
    result = together(around=[12], narrow=narrow, wide=wide)
    a, b = (unit_directions(rows, centre=True).double().numpy() for rows in (narrow, wide))
    rows = result.tables["neighbours"].rows
    for name, of, n in (("narrow", a, 7), ("wide", b, 6)):
        mine = [row for row in rows if row[1] == name]
        order = np.argsort(-(of @ a[12]), kind="stable")[:n]
        assert [row[3] for row in mine] == order.tolist()
        assert [row[2] for row in mine] == list(range(7 - n, 7))
        places = result.arrays[f"map/{name}"]
        assert set(np.flatnonzero(np.isfinite(places).all(1))) == set(order.tolist())


def test_other_widths_are_noted_and_one_sae_is_not_enough() -> None:
    rows = grouped()[:40]
    result = together(a=rows, b=rows, other=rows[:, :7])
    assert set(result.arrays) == {"map/a", "map/b"}
    assert result.notes == (f"other writes activations of width 7, not {D}: left out",)
    study = NeighbourhoodsStudy()
    assert "at least two" in (study.reason_all({"a": subject_of(rows)}) or "")
    two = {"a": subject_of(rows), "b": subject_of(rows[:, :7])}
    assert f"widths {D}, 7" in (study.reason_all(two) or "")
    with pytest.raises(UserError, match="needs two SAEs of one site"):
        study.run_all(two, {})


def test_a_layout_of_nothing_is_nothing() -> None:
    settings = {"n_neighbors": 15, "min_dist": 0.1, "seed": 0, "show_progress": False}
    assert np.isnan(umap_layout(torch.zeros(9, 4), **settings)).all()
    assert umap_layout(torch.zeros(0, 4), **settings).shape == (0, 2)
