"""Debian's Chromium, without a window and without a network."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# A sandbox needs a user who is not root, and WebGL without a GPU its software implementation.
OPTIONS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


@dataclasses.dataclass
class Opened:
    """A page that is open, and what it said and asked for."""

    page: Any
    said: list[str]
    requests: list[str]

    def fits(self, width: int) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth") <= width


@contextmanager
def opened_pages(browser, kind: type[Opened]) -> Iterator[Any]:
    """A function that opens pages, which are closed with the context."""
    pages = []

    def open_page(url: str, width: int = 1280, scheme: str = "light", script: str = "") -> Opened:
        found = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(found)
        state = kind(found, [], [])
        found.on("console", lambda message: state.said.append(message.text))
        found.on("pageerror", lambda error: state.said.append(str(error)))
        found.on("request", lambda request: state.requests.append(request.url))
        if script:
            found.add_init_script(script)
        found.goto(url)
        return state

    yield open_page
    for each in pages:
        each.close()
