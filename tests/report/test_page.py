"""The page and the sheet: complete, self-contained, and fit for what is missing."""

import html.parser
import io
import json
import math
import re
from xml.etree import ElementTree

import pytest
from helpers import report_samples
from helpers.report_samples import SCAN, content, record
from PIL import Image

from mri2qmap.export.volumes import export_volumes
from mri2qmap.report import page as page_module
from mri2qmap.report.charts import histogram_chart, memory_chart, waterfall_chart
from mri2qmap.report.content import report_content
from mri2qmap.report.convergence import Curve, convergence_chart, convergence_drawings
from mri2qmap.report.drawing import Drawing
from mri2qmap.report.findings import Light
from mri2qmap.report.page import page
from mri2qmap.report.run_facts import Busy
from mri2qmap.report.sheet import sheet
from mri2qmap.report.volumes import report_volumes

VOID = {"meta", "link", "img", "br", "input", "wbr"}
VIEWER = 'console.log("<\\/script>")'


class Checker(html.parser.HTMLParser):
    """Refuses elements that do not nest, and collects text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.scripts: dict[str, str] = {}
        self._id = ""

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.addresses += [named[name] for name in ("src", "href") if name in named]
        if tag not in VOID:
            self.open.append(tag)
        self._id = named.get("id", "")

    def handle_endtag(self, tag):
        if tag not in VOID | {"rect", "polyline", "polygon"}:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self._id] = self.scripts.get(self._id, "") + data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert all(address.startswith("data:") for address in checker.addresses)
    return checker


def words(text: str) -> str:
    return " ".join(checked(text).words)


def test_a_page_without_a_viewer_has_slices_and_says_how_to_build_it():
    text = page(content())
    found = words(text)
    assert "Green: Nothing unusual was found" in found
    assert "make viewer" in found
    assert text.count("data:image/png;base64,") == 3 * 11
    for part in (
        "T1 of white matter",
        "659 to 938 ms",
        "Residuals of ADMM",
        "Virtual coils",
        "97.00%",
    ):
        assert part in found
    assert "All settings are the defaults" in found
    assert "<script" not in text
    assert len(text) < 500_000


def test_a_page_with_a_viewer_holds_the_volumes():
    text = page(content(), VIEWER)
    scripts = checked(text).scripts
    settings = json.loads(scripts["viewer-settings"])
    assert [v["name"] for v in settings["volumes"]][:2] == ["T1map", "T2map"]
    assert all(f"data-{v['name']}" in scripts for v in settings["volumes"])
    assert settings["leftOut"] == []
    assert set(settings["tables"]) == {"lipari", "navia", "grey"}
    assert scripts[""] == VIEWER
    assert "make viewer" not in text


def test_volumes_that_are_too_large_are_named(monkeypatch):
    monkeypatch.setattr(page_module, "embedded", lambda volumes: {"T1map": "AAAA"})
    settings = json.loads(checked(page(content(), VIEWER)).scripts["viewer-settings"])
    assert [v["name"] for v in settings["volumes"]] == ["T1map"]
    assert "T2" in settings["leftOut"]


def test_a_page_without_maps_is_still_a_report():
    found = report_content(record(), SCAN, "scan 1", [], report_samples.MADE)
    text = words(page(found, VIEWER))
    assert "The maps are not known here" in text
    assert "Residuals of ADMM" in text
    assert Image.open(io.BytesIO(sheet(found))).width == 2480


@pytest.mark.parametrize(
    ("run", "scan", "quality", "light", "part"),
    [
        (record(incomplete="9 of 10 readouts are missing"), {}, 1, Light.AMBER, "9 of 10 readouts"),
        (record(), {"field_strength_t": None}, 1, Light.GREEN, "is not in the header"),
        (record(), {"field_strength_t": 7.0}, 1, Light.AMBER, "outside the published range"),
        (record(), {}, 0.5, Light.RED, "Check the sequence in the header"),
        ({"incomplete_record": "nothing is known"}, {}, 1, Light.AMBER, "nothing is known"),
        (
            {"server": "a:1", "configuration": "c", "nodes": [{"name": "n", "busy_s": 2.0}]},
            {}, 1, Light.GREEN, "of the server's gadgets are not known",
        ),
    ],
)  # fmt: skip
def test_what_is_unusual_or_missing_is_said(run, scan, quality, light, part):
    maps = report_samples.head()
    maps.match_quality.mul_(quality)
    found = content(run, maps, SCAN | scan)
    assert found.light is light
    assert part in words(page(found))
    assert Image.open(io.BytesIO(sheet(found))).height > 1000


def test_air_that_is_not_masked_is_not_judged():
    maps = report_samples.head()
    air = maps.t1 == 0
    maps.t1[air], maps.t2[air] = 2.0, 1.0
    volumes = report_volumes(export_volumes(maps, 0.0).volumes.values())
    found = report_content(record(), SCAN, "scan 1", volumes, report_samples.MADE)
    assert found.light is Light.GREEN
    assert [peak.tissue for peak in found.peaks] == ["white matter", "grey matter"]
    masked = content()
    assert (found.centre, found.histograms["T1"].beyond) == (masked.centre, 0)


def test_texts_are_escaped():
    evil = "<script>alert(1)</script>&"
    made = record(incomplete=evil, pipeline=evil.replace("/", ""), log=["t", f"memory: {evil}"])
    text = page(report_content(made, SCAN, evil, [], report_samples.MADE))
    assert "<script>alert" not in text
    assert evil in words(text)


def test_the_page_may_load_nothing_from_elsewhere():
    text = page(content())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]


def test_a_sheet_is_a_picture_of_the_width_of_a4():
    picture = Image.open(io.BytesIO(sheet(content())))
    assert picture.width == 2480
    assert picture.info["dpi"] == pytest.approx((300, 300), rel=1e-3)
    colours = picture.convert("RGB").resize((62, picture.height // 40)).getcolors(10_000)
    assert len(colours) > 50


def test_a_sheet_grows_with_its_findings():
    many = {f"a_{n}": "x" for n in range(400)}
    made = record(incomplete=" ".join(many) * 8)
    assert (
        Image.open(io.BytesIO(sheet(content(made)))).height
        > Image.open(io.BytesIO(sheet(content()))).height
    )


def drawn(drawing: Drawing | None) -> list[ElementTree.Element]:
    """Parts of the SVG element, all of whose coordinates are within the drawing."""
    assert drawing is not None
    root = ElementTree.fromstring(drawing.svg())
    for part in root.iter():
        for name, limit in (("x", drawing.width), ("y", drawing.height)):
            assert -1 <= float(part.get(name, 0)) <= limit + 1
        for point in part.get("points", "").split():
            x, y = map(float, point.split(","))
            assert -1 <= x <= drawing.width + 1
            assert -1 <= y <= drawing.height + 1
    return list(root)


@pytest.mark.parametrize("field", [1.5, 3.0, 7.0, None])
@pytest.mark.parametrize("time", ["T1", "T2"])
def test_histograms_stay_within_their_drawing(time, field):
    found = content()
    drawn(histogram_chart(time, found.histograms[time], found.peaks, field))


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ([1.0, 0.1, 0.01], 1),
        ([1.0], 1),
        ([1e-9, 1e9], 1),
        ([0.5, None, math.nan, 0.1], 1),
        ([0.0, -1.0, None], 0),
        ([], 0),
    ],
)
def test_convergence_takes_any_values(values, lines):
    drawing = convergence_chart("title", [Curve("label", values, "first")])
    assert (drawing is None) == (lines == 0)
    if drawing is not None:
        drawn(drawing)


def test_there_is_a_chart_of_what_was_recorded():
    assert len(convergence_drawings(record()["gadgets"][3]["iterations"])) == 3
    assert len(convergence_drawings([{"primal": 0.1, "cg_residual": None, "sigma": None}])) == 1
    assert convergence_drawings([]) == []


@pytest.mark.parametrize(
    ("busy", "last", "blue"),
    [
        ([Busy("a", 1.0, 3.0), Busy("b", 0.5, 0.5)], 4.0, 2),
        ([Busy("a", 1.0, 3.0), Busy("b", 0.0, 9.0)], 0.5, 1),
        ([Busy("a", None, 3.0), Busy("b", None, 0.0)], None, 0),
        ([Busy("a", 1e-9, 1e-9)], 1e-9, 1),
    ],
)
def test_a_waterfall_shows_both_parts(busy, last, blue):
    parts = drawn(waterfall_chart(busy, last))
    assert len([p for p in parts if p.get("fill") == "var(--first)"]) == blue


def test_without_computing_time_there_is_no_waterfall():
    assert waterfall_chart([Busy("a", 0.0, 0.0)], 3.0) is None
    assert waterfall_chart([], None) is None


@pytest.mark.parametrize(("peak", "planned"), [(1e9, 2e9), (2e9, 1e9), (1e9, None)])
def test_memory_stays_within_its_drawing(peak, planned):
    drawn(memory_chart(peak, planned))
