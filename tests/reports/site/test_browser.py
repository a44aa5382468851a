"""A reader's way through the report in headless Chromium, opened from disk: no server, no network, no error."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.reports.site import Reading
from tests.reports.site.browser import Browser
from tests.reports.site.example_reading import EVIL

ROWS = "#grid tr.item"
FIRST = f"{ROWS} a"


@pytest.fixture(autouse=True)
def nothing_in_the_console(chromium: Browser) -> Iterator[None]:
    chromium.console()
    yield
    assert chromium.console() == []
    assert not chromium.run("return performance.getEntriesByType('resource').some(e => e.name.startsWith('http'))")
    assert "broken" not in chromium.driver.title


def shown(chromium: Browser) -> list[int]:
    """The numbers of the features in the table's window."""
    return [
        int(text) for text in chromium.run(f"return [...document.querySelectorAll('{FIRST}')].map(a => a.textContent)")
    ]


def search(chromium: Browser, words: str) -> list[int]:
    field = chromium.one("#q")
    field.clear()
    field.send_keys(words)
    return shown(chromium)


def background(chromium: Browser) -> int:
    """How light the page's ground is, 0 to 255."""
    found = chromium.run("return getComputedStyle(document.body).backgroundColor")
    return int(found.split("(")[1].split(",")[0])


def test_the_overview_draws_its_charts_and_its_map_opens_features(chromium: Browser, site: Path) -> None:
    chromium.open(site / "index.html", "overview")
    assert chromium.text("h1") == "Reading of planted"
    for place in ("[data-chart='density-density_histogram']", "#curves", "#map-figure"):
        chromium.run("document.querySelector(arguments[0]).scrollIntoView()", place)
        chromium.until(f"return document.querySelector(`{place} .plotly-place.drawn .main-svg`)")
    chromium.click(chromium.one("[data-chart='density-density_histogram'] summary"))
    bars = chromium.until("return document.querySelectorAll('[data-chart] details[open] tbody tr').length")
    assert bars == 30
    for colours in ("cluster", "cosine", "neuron"):
        chromium.run(
            "const s = document.querySelector('#map-figure select'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'))",
            colours,
        )
    point = chromium.one("#map-figure .scatterlayer path.point")
    chromium.hover(point)
    chromium.until("return document.querySelector('#map-figure .hoverlayer')?.textContent.includes('feature')")
    assert "<" not in chromium.text("#map-figure .hoverlayer").replace("<img", "")  # tags of tokens are text
    from selenium.webdriver import ActionChains

    ActionChains(chromium.driver).move_to_element(point).click().perform()
    chromium.until("return document.documentElement.dataset.ready?.startsWith('feature ')")
    assert chromium.text("h1").startswith("Feature ")


def test_a_click_on_a_tables_head_sorts_it(chromium: Browser, site: Path) -> None:
    chromium.open(site / "index.html", "overview")
    table = "[aria-labelledby=similarity] .study table, section[aria-labelledby=similarity] table:last-of-type"
    read = f"return [...document.querySelectorAll('{table}')].at(-1).tBodies[0].innerText.split('\\n')[0]"
    before = chromium.run(read)
    chromium.run(f"[...document.querySelectorAll('{table}')].at(-1).tHead.querySelectorAll('button')[2].click()")
    assert chromium.run(read) != before


def test_search_and_sort_answer_as_the_numbers_are(chromium: Browser, site: Path, reading: Reading) -> None:
    chromium.open(site / "features.html", "table")
    count = np.asarray(reading.store.stats.count)
    assert shown(chromium)[:3] == [0, 1, 2]
    assert search(chromium, "given") == [7]  # a note
    assert search(chromium, "12")[0] == 12
    assert search(chromium, "#12") == [12]
    rare = [int(i) for i in np.flatnonzero(count < 100)]
    assert search(chromium, "count<100") == rare
    assert search(chromium, "count<100 count>0") == [i for i in rare if count[i]]
    assert search(chromium, "qqqq") == []
    assert "No feature matches" in chromium.text("#grid")
    cluster = np.flatnonzero(reading.results["clusters"].arrays["cluster"] == 2).tolist()
    assert search(chromium, "cluster=2") == cluster
    assert chromium.text("#count") == f"{len(cluster)} of 70 features"
    search(chromium, "x")
    search(chromium, "\b")
    head = chromium.one("th[data-key=count] button")
    head.click()
    assert chromium.one("th[data-key=count]").get_attribute("aria-sort") == "descending"
    order = sorted(range(len(count)), key=lambda i: (-count[i], i))
    assert shown(chromium)[:20] == order[:20]
    head.click()
    order = sorted(range(len(count)), key=lambda i: (count[i], i))
    assert shown(chromium)[:20] == order[:20]
    assert chromium.one("#grid table").get_attribute("aria-rowcount") == "71"
    chromium.one("#alive").click()
    assert shown(chromium)[0] == next(i for i in order if count[i])


def test_the_keyboard_is_enough(chromium: Browser, site: Path) -> None:
    from selenium.webdriver import Keys

    chromium.open(site / "features.html", "table")
    chromium.press("/")
    assert chromium.run("return document.activeElement.id") == "q"
    chromium.press("count>0", Keys.ARROW_DOWN)
    chromium.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    focused = chromium.run("return document.activeElement.textContent")
    assert focused == "3"  # 0, 2, 3: feature 1 is dead
    chromium.press(Keys.END)
    assert chromium.run("return document.activeElement.textContent") == "69"
    chromium.press(Keys.HOME, Keys.ARROW_DOWN, Keys.ENTER)
    chromium.until("return document.documentElement.dataset.ready === 'feature 2'")
    assert "“count>0”" in chromium.text("#back")
    for key, feature in (("n", 3), ("n", 4), ("p", 3), (Keys.ARROW_RIGHT, 4), (Keys.ARROW_LEFT, 3), ("p", 2), ("p", 0)):
        chromium.press(key)
        chromium.until(f"return document.documentElement.dataset.ready === 'feature {feature}'")
    assert chromium.one("#before").get_property("disabled")
    chromium.one("#back").click()
    chromium.until("return document.documentElement.dataset.ready === 'table'")
    assert chromium.one("#q").get_property("value") == "count>0"
    assert shown(chromium)[:2] == [0, 2]
    chromium.press("?")
    assert chromium.one("#help").get_property("open")
    chromium.press(Keys.ESCAPE)


def test_a_feature_shows_where_it_fires_and_its_neighbours_are_a_click_away(
    chromium: Browser, site: Path, reading: Reading
) -> None:
    chromium.open(site / "feature.html", "feature 7", "?f=7")
    assert chromium.driver.title == "Feature 7: planted"
    assert chromium.text("#stats").startswith("active on")
    assert len(chromium.all("#examples .example")) == 16 + 15 + 5
    chromium.until("return document.querySelector('.source a')?.href.startsWith('https://example.org/')")
    assert chromium.text(".source a").startswith("Text <b>")
    token = chromium.one("#examples .tok.peak")
    assert "activation 3.1" in token.get_attribute("title")
    assert token.get_attribute("role") == "img"
    assert "activation 3.1" in token.get_attribute("aria-label")
    chromium.hover(token)
    assert "3.1" in chromium.text(".readout")
    assert "100 % of 3.1" in chromium.text(".readout")
    chromium.one("#numbers").click()
    assert chromium.run("return getComputedStyle(document.querySelector('.tok.peak'), '::after').content") == '"3.1"'
    chromium.until("return document.querySelector('#activations .plotly-place.drawn')")
    neighbour = int(reading.results["similarity"].arrays["neighbour"][7, 0])
    link = chromium.one("#neighbours tbody a")
    assert link.text == str(neighbour)
    link.click()
    chromium.until(f"return document.documentElement.dataset.ready === 'feature {neighbour}'")
    assert chromium.driver.current_url.endswith(f"feature.html?f={neighbour}")
    assert chromium.run("return document.activeElement.id") == "title"
    chromium.driver.back()
    chromium.until("return document.documentElement.dataset.ready === 'feature 7'")
    partner = chromium.one("#partners tbody a")
    wanted = partner.text
    partner.click()
    chromium.until(f"return document.documentElement.dataset.ready === 'feature {wanted}'")


def test_what_is_copied_is_the_source(chromium: Browser, site: Path) -> None:
    chromium.open(site / "texts.html")
    chromium.until("return document.documentElement.dataset.ready?.startsWith('text 0')")
    copied = chromium.run(
        """
        const line = document.querySelector('.run'), range = document.createRange();
        range.selectNodeContents(line);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        const data = new DataTransfer();
        line.dispatchEvent(new ClipboardEvent('copy', {clipboardData: data, bubbles: true, cancelable: true}));
        return data.getData('text/plain');
        """
    )
    from tests.store.planted import HOSTILE

    assert copied == HOSTILE.replace("\ud800", "\ufffd")
    visible = chromium.text(".run")
    for mark in ("U+2028", "U+202E", "␀", "␛", "⇥", "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"):
        assert mark in visible.replace("␣", " "), mark
    assert not chromium.all(".run img, .run script")


def test_texts_are_coloured_by_the_feature_that_is_chosen(chromium: Browser, site: Path, reading: Reading) -> None:
    chromium.open(site / "texts.html")
    for feature in (0, 4, 7):
        chromium.one(f"input[value='{feature}']").click()
        chromium.until(f"return document.documentElement.dataset.ready === 'text 0 feature {feature}'")
        last = int(reading.store.text_starts[1])
        values = reading.store.values_at(feature, 0, last)
        assert len(chromium.all(".run .tok.on")) == np.count_nonzero(values)
        assert len(chromium.all(".run .tok.masked")) == np.count_nonzero(~reading.store.kept[:last])
    chromium.run("const s = document.getElementById('text'); s.value = 1; s.dispatchEvent(new Event('change'))")
    chromium.until("return document.documentElement.dataset.ready === 'text 1 feature 7'")


def test_notes_are_kept_shown_found_and_exported(chromium: Browser, site: Path) -> None:
    from selenium.webdriver import Keys

    chromium.open(site / "feature.html", "feature 4", "?f=4")
    chromium.press("e")
    chromium.press("rivers & <b>lakes</b>")
    assert "Kept in this browser" in chromium.text("#saved")
    chromium.open(site / "feature.html", "feature 7", "?f=7")
    assert chromium.one("#note").get_property("value") == "a note that was given"
    chromium.one("#note").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    chromium.open(site / "features.html", "table", "?q=lakes")
    assert shown(chromium) == [4]
    assert "rivers & <b>lakes</b>" in chromium.text("#grid tbody")
    assert search(chromium, "given") == []
    exported = chromium.run("return JSON.stringify(SAE.notes.all())")
    assert json.loads(exported) == {"0": f"fires everywhere {EVIL}", "4": "rivers & <b>lakes</b>"}
    chromium.run("localStorage.clear()")


def test_dark_and_light_follow_the_system_until_one_is_chosen(chromium: Browser, site: Path) -> None:
    chromium.emulate(prefers_color_scheme="light")
    chromium.open(site / "feature.html", "feature 0", "?f=0")
    assert background(chromium) > 240
    chromium.emulate(prefers_color_scheme="dark")
    assert background(chromium) < 40
    chromium.one("#theme").click()
    assert background(chromium) > 240
    chromium.open(site / "index.html", "overview")  # remembered
    assert background(chromium) > 240
    chromium.one("#theme").click()
    assert background(chromium) < 40
    chromium.run("document.querySelector('[data-chart]').scrollIntoView()")
    chromium.until(
        "return document.querySelector('[data-chart] .plotly-place.drawn .gtitle, [data-chart] .drawn .xtick text')"
    )
    ink = chromium.run("return getComputedStyle(document.querySelector('[data-chart] .drawn .xtick text')).fill")
    assert int(ink.split("(")[1].split(",")[0]) > 120  # the chart went dark, too
    chromium.run("localStorage.clear()")
    chromium.emulate(prefers_color_scheme="light")


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_no_page_is_wider_than_its_window(chromium: Browser, site: Path, width: int) -> None:
    chromium.size(width, 800)
    for page, query in (("index.html", ""), ("features.html", ""), ("feature.html", "?f=0"), ("texts.html", "")):
        chromium.open(site / page, None, query)
        chromium.until("return document.documentElement.dataset.ready")
        assert chromium.run("return document.documentElement.scrollWidth") <= width, page
    chromium.size(1280, 900)


def test_paper_gets_all_rows_in_light(chromium: Browser, site: Path) -> None:
    chromium.emulate(prefers_color_scheme="dark")
    chromium.open(site / "features.html", "table")
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert len(chromium.all(ROWS)) == 70
    chromium.run("dispatchEvent(new Event('afterprint'))")
    printed = chromium.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 10_000
    chromium.emulate(prefers_color_scheme="light")


def test_every_control_has_a_name_and_every_page_its_landmarks(chromium: Browser, site: Path) -> None:
    for page, query in (("index.html", ""), ("features.html", ""), ("feature.html", "?f=0"), ("texts.html", "")):
        chromium.open(site / page, None, query)
        chromium.until("return document.documentElement.dataset.ready")
        tree = chromium.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = [node["role"]["value"] for node in tree if not node.get("ignored")]
        for landmark in ("banner", "navigation", "main", "heading"):
            assert landmark in roles, (page, landmark)
        for node in tree:
            if node.get("ignored") or node["role"]["value"] not in (
                "button",
                "link",
                "textbox",
                "searchbox",
                "combobox",
            ):
                continue
            assert node.get("name", {}).get("value", "").strip(), (page, node["role"])
        assert chromium.run("return document.querySelectorAll('h1').length") == 1
        assert chromium.run("return document.documentElement.lang") == "en"
        assert chromium.run("return new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == len(
            chromium.all("[id]")
        )
