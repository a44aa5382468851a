"""Several SAEs: side by side on one page, each with its own site, joined by their closest features."""

from pathlib import Path

import numpy as np
import pytest

from sae_lightning.core import Estimate
from sae_lightning.reports.evaluation_data import short
from sae_lightning.reports.site import Comparison, Reading, write_site
from sae_lightning.reports.site.comparison import _closest
from sae_lightning.reports.site.features import PER_FILE
from sae_lightning.reports.site.sections import gathered, row
from sae_lightning.reports.site.tables import shown_table
from sae_lightning.studies.evaluation.compare import COLUMNS
from sae_lightning.studies.study import Result, Table
from tests.reports.example_evaluation import evaluation
from tests.reports.site.data import read_data, read_feature
from tests.reports.site.example_reading import EVIL, example_comparison, example_reading
from tests.reports.site.test_site import PAGES, read


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> list[Reading]:
    folder = tmp_path_factory.mktemp("readings")
    return [
        example_reading(folder, "narrow", features=40),
        example_reading(folder, f"wide {EVIL}", features=60, seed=1),
    ]


@pytest.fixture(scope="module")
def compared(readings: list[Reading], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "report"
    return write_site(out, readings, compare=example_comparison(readings), show_progress=False)


def folders(compared: Path) -> list[str]:
    return sorted(p.parent.name for p in compared.glob("*/feature.html"))


def test_each_has_a_whole_site_and_assets_are_there_once(compared: Path) -> None:
    assert len(folders(compared)) == 2
    for folder in folders(compared):
        assert {p.name for p in (compared / folder).glob("*.html")} == set(PAGES)
    assert len(list(compared.rglob("plotly.min.js"))) == 1
    for path in compared.rglob("*.html"):
        reader = read(path.read_text(encoding="utf-8"))
        assert reader.open == []
        for address in reader.addresses:
            if not address.startswith(("#", "data:,")):
                assert (path.parent / address.split("?")[0].split("#")[0]).is_file(), (path, address)


def test_features_lead_to_the_closest_of_the_other(compared: Path, readings: list[Reading]) -> None:
    joined = example_comparison(readings).closest
    a, b = (reading.name for reading in readings)
    for folder, pair in zip(("narrow", folders(compared)[1]), ((a, b), (b, a)), strict=True):
        index, cosine = joined[pair]
        for feature in range(0, len(index), 7):
            found, _ = read_feature(compared / folder, feature, PER_FILE)
            if index[feature] < 0:
                assert found["closest"] == []
            else:
                ((sibling, other, value),) = found["closest"]
                assert (sibling, other) == (0, index[feature])
                assert value == pytest.approx(cosine[feature], rel=1e-3)


def test_the_overview_has_both_with_their_difference(compared: Path) -> None:
    page = (compared / "index.html").read_text(encoding="utf-8")
    text = read(page).text
    for words in ("The SAEs", "Key figures", "Closest features", "Map of all", "Training", "Splitting", "Density"):
        assert f"\n{words}\n" in text, words
    assert "<img" not in page
    charts = {chart["id"]: chart for chart in read_data(compared, "overview")["charts"]}
    assert [len(charts[name]["series"]) for name in ("closest", "density-density_histogram")] == [2, 2]
    assert [len(group["features"]) for group in read_data(compared, "map")["groups"]] == [40, 60]
    assert "narrow/feature.html?f=3" in page


def test_a_difference_has_its_interval_and_its_sign(readings: list[Reading]) -> None:
    a, b = (
        Reading(name, readings[0].store, {"s": Result({"m": Estimate(v, v, v, 9)})}) for name, v in (("a", 2), ("b", 5))
    )
    rows = (("s", "m", "a", "b", 2.0, 5.0, -3.0, -4.0, -1.0, "a better"),)
    compare = Comparison(results={"compare": Result({}, {"differences": Table(COLUMNS, rows)})})
    assert row(gathered({"a": a, "b": b}, compare), "s", "m").difference == ("3", "[1, 4]", True)
    assert row(gathered({"b": b, "a": a}, compare), "s", "m").difference == ("-3", "[-4, -1]", True)
    assert row(gathered({"a": a, "b": b}), "s", "m").difference == ("3", "", False)


def test_the_whole_evaluation_gives_differences_standing_and_what_matched(
    readings: list[Reading], tmp_path: Path
) -> None:
    whole = evaluation(2)
    a, b = names = list(whole["saes"])
    for name, tokens in zip(names, (1111, 2222), strict=True):
        for study in whole["saes"][name]["studies"].values():
            for estimate in study["estimates"].values():
                estimate["tokens"] = tokens
    pair = [Reading(name, readings[0].store, readings[0].results) for name in names]
    out = write_site(tmp_path / "r", pair, compare=Comparison(evaluation=whole), show_progress=False)
    text = read((out / "index.html").read_text(encoding="utf-8")).text
    rows = [
        dict(zip(COLUMNS, r, strict=True)) for r in whole["comparisons"]["compare"]["tables"]["differences"]["rows"]
    ]
    assert rows
    found = gathered({r.name: r for r in pair}, Comparison(evaluation=whole))
    for one in rows:
        shown = row(found, one["study"], one["metric"])
        assert shown.difference is not None
        assert shown.difference[1] == f"[{short(-one['high'])}, {short(-one['low'])}]"
        assert shown.difference[1] in text
        assert shown.over == f"1,111 and 2,222 {'rows' if one['study'] == 'groundtruth' else 'tokens'}"
    assert "indistinguishable" in text
    assert "≈ best" in text
    assert "1,111 (sae 0), 2,222 (sae 1) tokens" in text
    for words in ("Differences", "Consistency"):
        assert f"\n{words}\n" in text, words
    assert f"consistency_cosine/{a} ~ {b}" in text
    assert "4,096 features" in text


def test_a_feature_that_never_fires_is_nothing_to_be_found_again(readings: list[Reading]) -> None:
    a, b = readings
    dead = int(np.flatnonzero(np.asarray(b.store.stats.count) == 0)[0])
    index, cosine = np.full(40, 3, np.int32), np.linspace(0, 1, 40, dtype=np.float32)
    index[::2] = dead
    found = _closest(
        Comparison({(a.name, b.name): (index, cosine)}), {r.name: r for r in readings}, {a.name: "a", b.name: "b"}
    )
    assert found is not None
    pairs = [[cell.number for cell in cells[:2]] for table in found["tables"] for cells in table.rows]
    assert pairs
    assert {other for _, other in pairs} == {"3"}


def test_columns_named_after_an_sae_lead_into_its_folder() -> None:
    columns = ["feature of a", "features of b", "sae", "feature", "cosine"]
    found = shown_table("t", {"columns": columns, "rows": [[3, "5, 6 ...", "b", 8, 0.5]]}, {"a": "fa", "b": "fb"})
    (one,) = found.rows
    assert one[0].parts[0].href == "fa/feature.html?f=3"
    assert [p.href for p in one[1].parts] == ["fb/feature.html?f=5", None, "fb/feature.html?f=6", None]
    assert one[3].parts[0].href == "fb/feature.html?f=8"
    assert one[4].parts[0].href is None


def test_split_features_and_neighbours_lead_where_they_belong() -> None:
    folders = {"a": "fa", "b": "fb"}
    split = {"columns": ["narrow", "wide", "cosine"], "rows": [[3, 7, 0.5]]}
    (one,) = shown_table("splits b -> a", split, folders).rows
    assert [cell.parts[0].href for cell in one] == ["fb/feature.html?f=3", "fa/feature.html?f=7", None]
    near = {"columns": ["around", "sae", "rank", "feature"], "rows": [[1, "b", 2, 4], [1, "c", 2, 4]]}
    one, other = shown_table("neighbours", near, folders).rows
    assert [cell.parts[0].href for cell in one] == ["fa/feature.html?f=1", None, None, "fb/feature.html?f=4"]
    assert other[3].parts[0].href is None


def test_three_saes_are_compared_without_differences(tmp_path: Path, readings: list[Reading]) -> None:
    three = [Reading(name, readings[0].store, readings[0].results) for name in ("a", "b", "c")]
    index, cosine = np.zeros(40, np.int32), np.ones(40, np.float32)
    out = write_site(tmp_path / "r", three, compare=Comparison({("a", "c"): (index, cosine)}), show_progress=False)
    found, _ = read_feature(out / "a", 0, PER_FILE)
    assert found["closest"] == [[1, 0, 1]]  # c is the second of a's siblings
    assert " − " not in (out / "index.html").read_text(encoding="utf-8")
