"""What features are said to mean, in the report: found, sorted, shown with who says so, and as text alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.reports.site import Reading, write_site
from sae_lightning.reports.site.features import PER_FILE
from sae_lightning.studies.autointerp.explanations import Explanation
from tests.reports.site.browser import Browser
from tests.reports.site.data import read_data, read_feature
from tests.reports.site.example_reading import EVIL, explanations
from tests.reports.site.test_browser import search, shown
from tests.store.planted import planted_store


@pytest.fixture(autouse=True)
def nothing_in_the_console(chromium: Browser) -> Iterator[None]:
    chromium.console()
    yield
    assert chromium.console() == []
    assert "broken" not in chromium.driver.title


def plain(folder: Path, said: Mapping[int, Sequence[Explanation]]) -> Path:
    """Write the report of a small store."""
    store = planted_store(folder, d_sae=12).store
    return write_site(folder / "report", [Reading("plain", store, explanations=said)], show_progress=False)


def test_the_data_are_the_explanations(site: Path) -> None:
    given = explanations(EVIL)
    assert read_data(site, "table")["texts"] == {
        "explanation": {str(feature): said[0].text for feature, said in given.items()}
    }
    scores = read_data(site, "table")["columns"]["score"]
    assert {f: v for f, v in enumerate(scores) if v is not None} == {0: 0.75, 5: 0.9}
    for feature, said in given.items():
        found, _ = read_feature(site, feature, PER_FILE)
        assert found["explanations"] == [[one.text, one.by, [[n, v] for n, v in one.scores.items()]] for one in said]
    assert read_feature(site, 1, PER_FILE)[0]["explanations"] == []


def test_words_of_explanations_are_found_and_their_column_sorts(chromium: Browser, site: Path) -> None:
    chromium.open(site / "features.html", "table")
    assert search(chromium, "zebras") == [0]
    assert search(chromium, '"names of rivers"') == [7]
    assert search(chromium, "anchors ropes") == [5]
    assert search(chromium, "score>0.6") == [0, 5]
    assert "explanations" in chromium.text("#hint")
    search(chromium, "qqqq")
    assert "explanations" in chromium.text("#grid")
    search(chromium, "x")
    search(chromium, "\b")
    head = chromium.one("th[data-key=explanation] button")
    head.click()
    assert shown(chromium)[:5] == [5, 7, 12, 0, 1]  # anchors, names, nobody, Zebras; without one: last
    head.click()
    assert shown(chromium)[:5] == [0, 12, 7, 5, 1]


def test_hostile_explanations_are_shown_as_text(chromium: Browser, site: Path) -> None:
    chromium.open(site / "features.html", "table", "?q=zebras")
    place = [head.get_attribute("data-key") for head in chromium.all("#grid th")].index("explanation")
    cell = chromium.all("#grid tr.item td")[place]
    for words in ("</script><img src=x onerror=", "U+2028", "U+202E", "<b>bold</b>"):
        assert words in cell.get_property("textContent"), words  # more than the column has room for
    title = cell.get_attribute("title")
    assert "[U+202E]" in title
    assert "\u202e" not in title
    assert not chromium.all("#grid tbody img, #grid tbody b")
    chromium.open(site / "feature.html", "feature 0", "?f=0")
    for words in (
        "Zebras of every kind",
        "<b>bold</b>",
        "U+202E",
        "detection accuracy 0.75",
        "rubric 1.5",
        "explained by",
    ):
        assert words in chromium.text("#explanations"), words
    assert not chromium.all("#explanations img, #explanations b, #explanations script")


def test_a_features_page_says_who_explained_it_and_goes_on_without(chromium: Browser, site: Path) -> None:
    chromium.open(site / "feature.html", "feature 7", "?f=7")
    said = [item.text for item in chromium.all("#explanations li")]
    assert [text.split("\n")[0] for text in said] == ["names of rivers", "[ri] x3; · [ver]"]
    assert "n2g · f1 0.25" in said[1]
    chromium.press("n")
    chromium.until("return document.documentElement.dataset.ready === 'feature 8'")
    assert not chromium.one("#explanations").is_displayed()
    assert chromium.all("#explanations li") == []


def test_a_features_page_says_how_to_ask_it(chromium: Browser, site: Path) -> None:
    chromium.open(site / "feature.html", "feature 7", "?f=7")
    said = chromium.run("return [...document.querySelectorAll('.ask')].map(line => line.textContent)")
    assert said == [
        "python -m sae_lightning.steer store=STORE prompt=\"I think\" 'clamp={7:5x}'",
        "python -m sae_lightning.search store=STORE near=7",
    ]


def test_neighbours_are_said_to_mean_something_too(chromium: Browser, site: Path, reading: Reading) -> None:
    neighbours = reading.results["similarity"].arrays["neighbour"]
    feature, place = (int(i[0]) for i in np.nonzero(neighbours == 7))
    chromium.open(site / "feature.html", f"feature {feature}", f"?f={feature}")
    row = chromium.all("#neighbours tbody tr")[place]
    assert row.find_element("css selector", ".meant").text == "names of rivers"


def test_without_explanations_nothing_speaks_of_them(chromium: Browser, tmp_path: Path) -> None:
    out = plain(tmp_path, {})
    assert read_data(out, "table")["texts"] == {}
    assert "score" not in read_data(out, "table")["columns"]
    chromium.open(out / "features.html", "table")
    assert not chromium.all("th[data-key=explanation]")
    assert "explanations" not in chromium.text("#hint")


def test_the_score_that_most_begin_with_has_a_column(tmp_path: Path) -> None:
    said = {
        1: [Explanation("a", "n2g", {"f1": 0.5, "recall": 0.1})],
        3: [Explanation("b", "n2g", {"f1": 0.25})],
        4: [Explanation("c", "judge", {"recall": 0.75, "f1": 1.0})],
        5: [Explanation("d", "judge", {"recall": 0.75})],
    }
    out = plain(tmp_path, said)
    assert 'data-label="f1"' in (out / "features.html").read_text()
    values = read_data(out, "table")["columns"]["score"]
    assert {f: v for f, v in enumerate(values) if v is not None} == {1: 0.5, 3: 0.25, 4: 1}


@pytest.mark.parametrize("width", [360, 1280])
def test_the_table_stays_in_its_window(chromium: Browser, site: Path, width: int) -> None:
    chromium.size(width, 800)
    chromium.open(site / "features.html", "table")
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.one("th[data-key=explanation]").is_displayed() == (width > 800)
    chromium.open(site / "feature.html", "feature 0", "?f=0")
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    chromium.size(1280, 900)
