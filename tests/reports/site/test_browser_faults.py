"""What went wrong for readers once: searches that meant another column, errors that stayed, values below zero."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sae_lightning.reports.site import Reading, write_site
from tests.reports.site.browser import Browser
from tests.reports.site.example_reading import example_comparison, example_reading
from tests.reports.site.test_browser import search, shown
from tests.store.planted import planted_store


@pytest.fixture(autouse=True)
def nothing_in_the_console(chromium: Browser) -> Iterator[None]:
    chromium.console()
    yield
    assert chromium.console() == []


def ready(chromium: Browser, feature: int) -> None:
    chromium.until(f"return document.documentElement.dataset.ready === 'feature {feature}'")


def test_conditions_mean_columns_of_numbers_by_key_or_heading(chromium: Browser, site: Path, reading: Reading) -> None:
    chromium.open(site / "features.html", "table")
    count = np.asarray(reading.store.stats.count)
    many = np.flatnonzero(count > 1000).tolist()
    assert 0 < len(many) < len(count)
    for words in ("tokens>1000", "count>1,000", "tokens > 1_000", "Tokens>1e3", "firings>1000"):
        assert search(chromium, words)[:20] == many[:20], words
        assert chromium.text("#count") == f"{len(many)} of 70 features"
    dense = np.flatnonzero(count / reading.store.n_kept > 0.1).tolist()
    assert search(chromium, "active on>10%") == search(chromium, "density>0.1") == dense
    r = np.abs(reading.results["neuron_correlation"].arrays["neuron_correlation"])
    assert len(shown(chromium)) == len(dense)
    strong = np.flatnonzero(np.array([float(f"{v:.4g}") for v in r]) >= 0.6).tolist()
    assert search(chromium, "r>=0.6") == search(chromium, "neuron r>=0.6") == strong
    assert (
        search(chromium, "count>0 tokens<1,000 active on>")
        == np.flatnonzero((count > 0) & (count < 1000)).tolist()[: len(shown(chromium))]
    )


def test_a_condition_that_is_none_is_said_aloud(chromium: Browser, site: Path) -> None:
    chromium.open(site / "features.html", "table")
    assert search(chromium, "frequency>3") == []
    said = chromium.text("#count")
    assert "“frequency”" in said
    assert "density, count, largest" in said
    assert said in chromium.text("#grid")
    for words in ("promoted>3", "note>3"):
        search(chromium, words)
        assert "No column of numbers" in chromium.text("#count")
    search(chromium, "count>1.2.3")
    assert "is no number" in chromium.text("#count")
    search(chromium, '"frequency>3"')
    assert chromium.text("#count") == "0 of 70 features"


def test_a_wrong_number_is_left_behind_and_has_no_next(chromium: Browser, site: Path) -> None:
    chromium.open(site / "feature.html", "feature 3", "?f=3")
    chromium.run("history.pushState(null, '', 'feature.html?f=99999'); dispatchEvent(new Event('popstate'))")
    chromium.until("return document.querySelector('[role=alert]')")
    assert not chromium.one("#feature").is_displayed()
    for key in ("n", "p", "n"):
        chromium.press(key)
    assert len(chromium.all("[role=alert]")) == 1
    assert chromium.driver.current_url.endswith("f=99999")
    chromium.driver.back()
    ready(chromium, 3)
    assert chromium.one("#feature").is_displayed()
    assert chromium.all("[role=alert]") == []
    chromium.press("n")
    ready(chromium, 4)
    chromium.driver.get((site / "feature.html").as_uri() + "?f=abc")
    chromium.until("return document.querySelector('[role=alert]')")
    for key in ("n", "n", "p"):
        chromium.press(key)
    assert len(chromium.all("[role=alert]")) == 1
    assert chromium.driver.current_url.endswith("f=abc")
    chromium.console()  # the page tells the console as well


def test_keys_of_the_page_rest_under_the_help(chromium: Browser, site: Path) -> None:
    from selenium.webdriver import Keys

    chromium.open(site / "feature.html", "feature 3", "?f=3")
    chromium.press("?", "n", "n", "?")
    assert chromium.one("#help").get_property("open")
    assert chromium.driver.current_url.endswith("f=3")
    chromium.press(Keys.ESCAPE, "n")
    ready(chromium, 4)


def test_clusters_of_several_saes_give_no_colour(chromium: Browser, site: Path, tmp_path: Path) -> None:
    options = "return [...document.querySelectorAll('#map-figure option')].map(o => o.value)"
    chromium.open(site / "index.html", "overview")
    assert "cluster" in chromium.run(options)
    assert "repeat" in chromium.text("#map-figure option[value=cluster]")
    pair = [example_reading(tmp_path, n, features=30, seed=i, documents=["a b c d"] * 9) for i, n in enumerate("ab")]
    out = write_site(tmp_path / "report", pair, compare=example_comparison(pair), show_progress=False)
    chromium.open(out / "index.html", "overview")
    assert chromium.run(options)[:2] == ["sae", "density"]
    assert "cluster" not in chromium.run(options)


def test_values_below_zero_have_a_colour_of_their_own(chromium: Browser, site: Path, tmp_path: Path) -> None:
    def dense(n: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        return (rng.normal(size=(n, 4)) * (rng.random((n, 4)) < 0.3)).astype(np.float32)

    store = planted_store(tmp_path, d_sae=4, dense=dense).store
    out = write_site(tmp_path / "report", [Reading("signed", store)], show_progress=False)
    chromium.open(out / "feature.html", "feature 2", "?f=2")
    assert chromium.all("#examples .tok.on.neg")
    assert chromium.all("#examples .tok.on:not(.neg)")
    for token in chromium.all("#examples .tok.on.neg")[:5]:
        assert "activation -" in token.get_attribute("aria-label")
    shades = chromium.run(
        "return [...document.querySelectorAll('.tok.on')].map(t => Number(t.style.getPropertyValue('--a')))"
    )
    assert max(shades) == 1
    assert min(shades) > 0
    ground = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
    assert chromium.run(ground, ".tok.on.neg") != chromium.run(ground, ".tok.on:not(.neg)")
    assert chromium.one(".scale .below").is_displayed()
    values = store.column(2)[1]
    label = chromium.one("#activations .plotly-place").get_attribute("aria-label")
    assert f"from {float(values.min()):.4g}".rstrip("0") in label
    assert f"to {float(values.max()):.4g}".rstrip("0") in label
    chromium.open(site / "feature.html", "feature 7", "?f=7")
    assert not chromium.one(".scale .below").is_displayed()
    assert not chromium.all(".tok.neg")


def test_a_dead_feature_and_one_that_is_not_there_say_so(chromium: Browser, site: Path) -> None:
    chromium.open(site / "feature.html", "feature 1", "?f=1")
    assert "fires on none of the tokens" in chromium.text("#examples")
    for wrong in ("?f=70", "?f=-1", "?f=x", "?f=1e3", "?f=<img>"):
        chromium.driver.get((site / "feature.html").as_uri() + wrong)
        chromium.until("return document.querySelector('[role=alert]')?.textContent.includes('0 to 69')")
    chromium.console()  # the page tells the console as well


def test_two_saes_side_by_side_lead_into_each_other(chromium: Browser, tmp_path: Path) -> None:
    readings = [
        example_reading(tmp_path, "narrow", features=40),
        example_reading(tmp_path, "wide", features=60, seed=1),
    ]
    joined = example_comparison(readings)
    out = write_site(tmp_path / "report", readings, compare=joined, show_progress=False)
    chromium.open(out / "index.html", "overview")
    for place in ("[data-chart=closest]", "#map-figure", "[data-chart=density-density_histogram]"):
        chromium.run("document.querySelector(arguments[0]).scrollIntoView()", place)
        chromium.until(f"return document.querySelector(`{place} .plotly-place.drawn`)")
    assert len(chromium.all("#map-figure .legend .traces")) == 2
    index = joined.closest["narrow", "wide"][0]
    feature = int(np.flatnonzero(index >= 0)[3])
    chromium.open(out / "narrow" / "feature.html", f"feature {feature}", f"?f={feature}")
    chromium.one("#closest a").click()
    chromium.until(f"return document.documentElement.dataset.ready === 'feature {index[feature]}'")
    assert "/wide/feature.html" in chromium.driver.current_url
