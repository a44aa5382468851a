"""A report of one reading, hostile in every text, that tests share: it is read and never changed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_lightning.reports.site import Reading, write_site
from tests.reports.site.browser import Browser, browser
from tests.reports.site.example_reading import EVIL, example_reading


@pytest.fixture(scope="package")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return example_reading(tmp_path_factory.mktemp("reading"), label=EVIL)


@pytest.fixture(scope="package")
def site(reading: Reading, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("site") / "report", [reading], show_progress=False)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        found.size(1280, 900)
        yield found
