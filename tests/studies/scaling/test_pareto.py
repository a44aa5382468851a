"""Pareto fronts against the definition, point by point, and files that are equal byte for byte."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lightning.core import UserError
from sae_lightning.studies.scaling.pareto import (
    front,
    front_rows,
    hypervolume,
    load_objectives,
    save_objectives,
    write_front,
)

POINTS = st.integers(1, 3).flatmap(
    lambda d: st.tuples(
        st.lists(st.tuples(*[st.integers(0, 6).map(float)] * d), max_size=25),
        st.tuples(*[st.sampled_from(["minimise", "maximise"])] * d),
    )
)


def dominates(p: tuple[float, ...], q: tuple[float, ...], directions: tuple[str, ...]) -> bool:
    better = [a < b if d == "minimise" else a > b for a, b, d in zip(p, q, directions, strict=True)]
    return any(better) and all(b or a == c for b, a, c in zip(better, p, q, strict=True))


@given(POINTS)
def test_the_front_is_what_no_point_dominates(case) -> None:
    points, directions = case
    expected = {i for i, q in enumerate(points) if not any(dominates(p, q, directions) for p in points)}
    found = front(points, directions)
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(POINTS)
def test_hypervolume_counts_the_dominated_unit_cells(case) -> None:
    points, directions = case
    reference = [7.0 if d == "minimise" else -1.0 for d in directions]
    # On whole numbers the dominated volume is the number of unit cells whose worse corner a point reaches.
    cost = np.array([[p if d == "minimise" else 6 - p for p, d in zip(q, directions, strict=True)] for q in points])
    cells = np.stack(np.meshgrid(*[np.arange(7)] * len(directions)), -1).reshape(-1, len(directions))
    reached = [bool(len(points)) and bool((cost <= cell).all(1).any()) for cell in cells]
    assert hypervolume(points, directions, reference) == pytest.approx(sum(reached))


def test_what_has_no_value_takes_no_part() -> None:
    points = [(1.0, None), (2.0, float("nan")), (3.0, 3.0), (float("-inf"), 0.0)]
    assert front(points, ["minimise", "minimise"]) == [2]


def test_points_outside_the_reference_box_add_nothing() -> None:
    assert hypervolume([(1.0, 5.0), (5.0, 0.0)], ["minimise", "minimise"], [4.0, 4.0]) == 0.0


def test_two_computations_write_equal_bytes_in_any_order_of_records(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [
        {"run_dir": f"trial-{i:03d}", "lane": "sae", "l0": float(rng.integers(1, 9)), "fvu": rng.random()}
        for i in range(40)
    ]
    objectives = {"l0": "minimise", "fvu": "minimise"}
    for name, order in (("a", records), ("b", records[::-1])):
        write_front(tmp_path / name, front_rows(order, objectives), objectives)
    text = (tmp_path / "a").read_text()
    assert text == (tmp_path / "b").read_text()
    lines = text.splitlines()
    assert lines[0] == "run_dir,lane,l0,fvu"
    written = [line.split(",") for line in lines[1:]]
    assert written
    for run_dir, _, l0, fvu in written:  # repr keeps every bit
        (record,) = [r for r in records if r["run_dir"] == run_dir]
        assert (float(l0), float(fvu)) == (record["l0"], record["fvu"])


def test_objectives_travel_beside_the_runs(tmp_path: Path) -> None:
    assert load_objectives(tmp_path) is None
    save_objectives(tmp_path, {"l0": "minimise", "explained_variance": "maximise"})
    assert load_objectives(tmp_path) == {"l0": "minimise", "explained_variance": "maximise"}
    assert list(load_objectives(tmp_path) or {}) == ["l0", "explained_variance"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"l0": "down"}', '{"l0": 3}', '{"l0": []}'])
def test_a_damaged_objectives_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "objectives.json").write_text(text)
    with pytest.raises(UserError, match=r"objectives\.json"):
        load_objectives(tmp_path)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(UserError, match="minimise or maximise"):
        front([(1.0,)], ["down"])
