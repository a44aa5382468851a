"""Headless Chromium as a reader would use it: pages opened from disk, keys, clicks, what the console said."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromedriver")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)


def install() -> None:
    """Install Debian's Chromium where it is missing; skip where that cannot be, but fail in CI."""
    if all(map(shutil.which, PROGRAMS)):
        return
    try:
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "chromium", "chromium-driver"]):
            subprocess.run(["apt-get", "-qq", *words], check=True, env=env, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = f"Chromium is not installed, and cannot be here: {error}"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)


class Browser:
    """A window on pages that are files."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, ready: str | None = None, query: str = "") -> None:
        """Open a file. ready: what the page says of itself (``html[data-ready]``) when its data has come."""
        self.driver.get(path.resolve().as_uri() + query)
        if ready is not None:
            self.until(f"return document.documentElement.dataset.ready === {ready!r}")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, seconds: float = 20) -> Any:
        """Wait until a script returns something true, and return that."""
        end = time.monotonic() + seconds
        while True:
            if found := self.run(script):
                return found
            assert time.monotonic() < end, f"never true: {script}\n{self.console()}"
            time.sleep(0.03)

    def one(self, selector: str) -> Any:
        """Return the first element of a selector."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        """Return every element of a selector."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """Return the text that is seen of the first element of a selector."""
        return self.one(selector).text

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, element: Any) -> None:
        """Click on an element, brought into the middle of the window first."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def hover(self, element: Any) -> None:
        """Move the pointer onto an element."""
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()

    def console(self) -> list[str]:
        """Return errors since the last call: those of scripts, of files that were not found, of the page's policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def emulate(self, **features: str) -> None:
        """Set media features: ``prefers_color_scheme="dark"``."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})

    def size(self, width: int, height: int) -> None:
        """Give the page this many CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Yield a browser with a fresh profile."""
    install()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(60)
        yield Browser(driver)
    finally:
        driver.quit()
