"""The page of steering in a browser: nothing runs that should not, nothing is wider than the window, marks are told."""

from pathlib import Path

import pytest

from sae_lightning.reports.steering_page import write_steering_page
from tests.reports.example_steering import steering
from tests.reports.site.browser import browser

EVIL = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"


@pytest.mark.parametrize("dose", [True, False])
def test_the_page_in_a_browser(tmp_path: Path, dose: bool) -> None:
    path = tmp_path / "steering.html"
    write_steering_page(path, steering(3, EVIL, dose))
    with browser(tmp_path / "profile") as window:
        for width in (1300, 380):
            window.size(width, 900)
            window.open(path)
            assert window.run("return document.documentElement.scrollWidth <= innerWidth")
            assert window.run("return document.title").startswith("Steering")
            assert window.console() == []
        # Sorted by its column, the table of doses keeps the order of strengths, not of their names.
        if dose:
            window.click(window.all(".doses th button")[1])
            places = window.run(
                "return [...document.querySelectorAll('.doses tbody td:nth-child(2)')].map(c => c.innerText)"
            )
            assert list(dict.fromkeys(places)) == ["as is", "-10x", "-2x", "0x", "1x", "5x", "10x"]
        colours = []
        for scheme in ("light", "dark"):
            window.emulate(prefers_color_scheme=scheme)
            window.open(path)
            script = "return getComputedStyle(document.querySelector('.samples i[style]')).backgroundColor"
            colours.append(window.run(script))
        assert len(set(colours)) == 2
