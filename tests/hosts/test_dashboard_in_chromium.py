"""The dashboard in Chromium while scans come, wait, end and fail."""

import re
from contextlib import suppress

import numpy as np
import pytest
from helpers.chromium import NEEDED, Opened, browser, opened_pages
from helpers.live import own_server
from helpers.scans import scan_info
from helpers.simulation_fixtures import labels
from helpers.waiting import eventually

from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import http_server
from mri2qmap.hosts.dashboard import Dashboard, ServiceState
from mri2qmap.hosts.live_scans import Judgement
from mri2qmap.hosts.service_record import ServiceRecord

__all__ = ["browser", "labels"]
WAIT = 30_000  # ms
ABOUT = {
    "name": "mri2qmap serve", "version": "1", "address": "here:9002", "device": "cpu",
    "started": "2020-01-01T00:00:00Z",
}  # fmt: skip
WINDOWS = [(1280, "light"), (400, "dark")]
TIMES = " \N{MULTIPLICATION SIGN} "
HOSTILE = "<img src=x onerror=document.title='hit'><svg onload=alert(1)><b>bold"
WRONG_CLOCK = """
Date.now = () => 0;
globalThis.Date = class extends Date { constructor() { super(0); } };
"""

pytestmark = NEEDED


class OpenedPage(Opened):
    """With what these tests ask of it."""

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait(self, selector: str, text: str = "") -> None:
        self.page.locator(selector, has_text=text).first.wait_for(timeout=WAIT)

    def quiet(self, url: str) -> None:
        """Nothing was said, and nothing asked for elsewhere."""
        assert self.said == []
        assert {r for r in self.requests if not r.startswith(url)} == set()
        assert {r.removeprefix(url) for r in self.requests} >= {"", "dashboard.js", "events"}


@pytest.fixture
def opened(browser):
    with opened_pages(browser, OpenedPage) as open_page:
        yield open_page


@pytest.fixture
def record():
    return ServiceRecord()


def dashboard(record, port=0, **about):
    def service():
        return ServiceState("", 2, 64, 2**34, 2**32, 2**30)

    return Dashboard("127.0.0.1", port, record.live, service, {**ABOUT, **about})


def address(server) -> str:
    return f"http://127.0.0.1:{server.port}/"


def test_a_real_scan_from_begin_to_end(opened, labels, tmp_path, capsys):
    scan = tmp_path / "scan.h5"
    head = ["--anatomy", str(labels / "head_a.nii.gz"), "--matrix", "12", "--fov", "0.04"]
    few = ["--coils", "2", "--frames", "40", "--acceleration", "1", "--groups", "1"]
    assert main(["simulate", str(scan), *head, *few]) == 0
    with own_server("serve", "--device", "cpu", "--dashboard", "0") as server:
        url = re.search(r"dashboard: (\S+)", server.said)[1]
        pages = [(opened(url, width, scheme), width) for width, scheme in WINDOWS]
        for state, _ in pages:
            state.wait("#connection[data-state=live]")
            assert state.text("#running-empty") == "No scan is in progress."
            state.page.evaluate(SEE)
        asked = ["replay", str(scan), "--no-report", "--server", f"127.0.0.1:{server.port}"]
        longer = ["--pipeline", "mrf_admm", "--set", "pnp_admm.iterations=100"]
        assert main([*asked, "-o", str(tmp_path / "maps"), *longer]) == 0
        assert main([*asked, "-o", str(tmp_path / "none"), "--configuration", HOSTILE]) == 2
        for state, width in pages:
            state.wait("#done li", "Scan 1 · pipeline sent by the client")
            seen = " ".join(state.page.evaluate("seen"))
            assert "Scan 1 · pipeline sent by the client" in seen
            assert f"{TIMES.join(3 * ['12'])}, 40 frames" in seen
            assert len(set(re.findall(r"ADMM\D*(\d+) of 100", seen))) > 1
            assert state.text("#count-running") == "0"
            assert state.text("#done .tag") in ("green", "amber", "red")
            state.page.locator("#done summary").click()
            assert "pnp_admm" in state.text("#done .gadgets")
            assert "from 127.0.0.1" in state.text("#done .facts")
            state.wait("#failed li", HOSTILE)
            assert state.text("#failed .tag") == "refused"
            assert state.fits(width)
            state.quiet(url)
    capsys.readouterr()


SEE = """() => {
  globalThis.seen = [];
  const look = () => seen.push(document.getElementById("running").innerText);
  const what = { childList: true, subtree: true, characterData: true };
  new MutationObserver(look).observe(document.getElementById("running"), what);
}"""


@pytest.mark.parametrize("width", [1280, 400])
def test_texts_of_peers_are_text(opened, record, width):
    record.live.judge = lambda run: Judgement("amber", [HOSTILE, 300 * "x"])
    with dashboard(record, name=HOSTILE, device=HOSTILE) as server:
        state = opened(address(server), width)
        with record.session(HOSTILE) as entry, entry.begin(HOSTILE):
            describe(entry, HOSTILE + 200 * "y")
            state.wait("#running li", HOSTILE)
            entry.queued(1)
            state.wait("#waiting li", HOSTILE)
            entry.queued(0)
            entry.judge_run({})
        with suppress(Mri2QmapError), record.session(HOSTILE):
            raise Mri2QmapError(HOSTILE + 300 * "z")
        state.wait("#failed li", HOSTILE)
        state.wait("#done li", HOSTILE[:60])
        state.page.locator("#done summary").click()
        state.wait("#done .findings", HOSTILE)
        assert state.page.locator("img, main svg, b, h1 *").count() == 0
        assert state.page.title() != "hit"
        assert state.fits(width)
        state.quiet(address(server))


def describe(entry, pipeline):
    entry.describe(pipeline, scan_info())


def test_times_are_right_with_a_wrong_clock(opened, record):
    with dashboard(record) as server:
        with suppress(Mri2QmapError), record.session():
            raise Mri2QmapError("wrong")
        record.live._start -= 3600  # the service has run for an hour since then
        state = opened(address(server), script=WRONG_CLOCK)
        state.wait("#failed .age", "1 h 0 min ago")
        state.quiet(address(server))


def test_it_says_that_the_connection_is_lost_and_comes_back(opened, record):
    server = dashboard(record)
    with server:
        with record.session() as entry, entry.begin("a scan"):
            describe(entry, "first")
        state = opened(address(server))
        state.wait("#done li", "pipeline first")
        assert not state.page.locator("#lost").is_visible()
    state.wait("#connection[data-state=lost]", "connection lost")
    state.wait("#lost", "Trying again")
    assert state.page.locator("main.old").count() == 1
    again = ServiceRecord()
    with dashboard(again, server.port, started="2020-01-02T00:00:00Z"):
        with again.session() as entry, entry.begin("a scan"):
            describe(entry, "second")
        state.wait("#connection[data-state=live]")
        state.wait("#done li", "Scan 1 · pipeline second")
        assert state.page.locator("#done li").count() == 1
        assert not state.page.locator("#lost").is_visible()
        assert state.page.locator("main.old").count() == 0


def test_it_says_that_too_many_pages_are_open(opened, record, monkeypatch):
    monkeypatch.setattr(http_server, "MOST_STREAMS", 1)
    with dashboard(record) as server:
        first = opened(address(server))
        first.wait("#connection[data-state=live]")
        second = opened(address(server))
        second.wait("#lost", "close one of its pages")
        first.page.goto("about:blank")
        second.wait("#connection[data-state=live]")


def test_what_is_open_stays_open(opened, record):
    with dashboard(record) as server:
        state = opened(address(server))
        for name in ("first", "second"):
            with record.session() as entry, entry.begin("a scan"):
                describe(entry, name)
            state.wait("#done li", name)
            if name == "first":
                state.page.locator("#done summary").click()
        assert state.page.locator("#done details[open]").count() == 1
        assert "first" in state.text("#done details[open]")


def test_structure_for_those_who_do_not_see_it(opened, record):
    with dashboard(record) as server:
        state = opened(address(server))
        with record.session() as entry, entry.begin("a scan"):
            describe(entry, "llr")
            state.wait("#running li", "llr")
            for role in ("main", "banner", "meter", "progressbar", "status"):
                assert state.page.get_by_role(role).count() == 1
            assert state.page.get_by_role("heading", level=1).count() == 1
            for each in state.page.locator("section").all():
                assert each.get_attribute("aria-labelledby")
        live = state.page.locator("[aria-live]")
        assert live.get_attribute("aria-live") == "polite"
        eventually(lambda: "Scan 1 done" in state.text("#news"), "the end is not told")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_all_texts(opened, record, scheme):
    """At least 4.5 : 1 (WCAG 2.1, AA)."""
    record.live.judge = lambda run: Judgement(run["light"], ["a reason"])
    with dashboard(record) as server:
        state = opened(address(server), scheme=scheme)
        for light in ("green", "amber", "red"):
            with record.session("::1") as entry, entry.begin("a scan"):
                describe(entry, light)
                entry.judge_run({"light": light})
        for error in (Mri2QmapError("wrong"), ConnectionError("gone"), ValueError("bug")):
            with suppress(type(error)), record.session("::1"):
                raise error
        with record.session("::1") as entry, entry.begin("a scan"):
            describe(entry, "llr")
            state.wait("#running li", "llr")
            state.wait("#failed .failed")
            for each in state.page.locator("#done summary").all():
                each.click()
            colours = state.page.evaluate(COLOURS)
    assert len(colours) > 40
    assert [found for found in colours if contrast(found["text"], found["ground"]) < 4.5] == []


COLOURS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const found = [];
  for (const each of document.querySelectorAll("body *")) {
    const own = [...each.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !each.checkVisibility()) continue;
    let under = each;
    let ground;
    do {
      ground = numbers(getComputedStyle(under).backgroundColor);
      under = under.parentElement;
    } while (under && ground[3] === 0);
    const text = numbers(getComputedStyle(each).color);
    found.push({ words: each.textContent, text, ground });
  }
  return found;
}"""


def contrast(one: list[float], other: list[float]) -> float:
    """Ratio of the relative luminances of two sRGB colours."""

    def luminance(colour):
        c = np.array(colour[:3]) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)
