"""The sheet: a picture with the most important of the report, of the width of A4 at 300 dpi."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image, ImageDraw, ImageFont

from mri2qmap.report.charts import histogram_chart, waterfall_chart
from mri2qmap.report.colours import coloured
from mri2qmap.report.content import TITLES, ReportContent, scan_rows
from mri2qmap.report.convergence import convergence_drawings
from mri2qmap.report.drawing import COLOURS, TEXT_SIZE, Area, Drawing, Line, Rectangle
from mri2qmap.report.findings import Finding, Light
from mri2qmap.report.pictures import plane_image, png
from mri2qmap.report.volumes import ReportVolume

Form = Literal["PNG", "PDF"]

_DOTS = 300
_QUALITY = 92
"""Of the picture in a PDF, which is compressed as JPEG [%]."""
_WIDTH = 2480
_MARGIN = 90
_GAP = 50
_MOST_FINDINGS = 8
_LARGE = 2
"""Number of maps that are drawn large: T1 and T2."""
_SMALL_COLUMNS = 4
_LIGHTS = {
    Light.GREEN: ("green", "#1b7837"),
    Light.AMBER: ("amber", "#9a5b00"),
    Light.RED: ("red", "#b3261e"),
    Light.NOTE: ("note", "#5b6773"),
}


def sheet(content: ReportContent, form: Form = "PNG") -> bytes:
    """Return the sheet as a PNG or PDF file; the PDF holds a picture."""
    picture = sheet_picture(content)
    if form == "PNG":
        return png(picture, dots=_DOTS)
    file = io.BytesIO()
    picture.save(file, form, resolution=_DOTS, quality=_QUALITY, title="MRI2Qmap report")
    return file.getvalue()


def sheet_picture(content: ReportContent) -> Image.Image:
    """Return the sheet as a picture in RGB."""
    paper = _Paper()
    _head(paper, content)
    _maps(paper, content.volumes, content)
    _charts(paper, content)
    _numbers(paper, content)
    return paper.picture()


class _Paper:
    """A page that grows downwards; `y` is where the next thing begins [pixels]."""

    def __init__(self) -> None:
        self.y = float(_MARGIN)
        self._image = Image.new("RGB", (_WIDTH, 2 * _WIDTH), "white")
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    def picture(self) -> Image.Image:
        end = min(self._image.height, round(self.y) + _MARGIN)
        return self._image.crop((0, 0, _WIDTH, end))

    def make_room(self, height: float) -> None:
        """Lengthen the page so that so much more fits."""
        needed = round(self.y + height) + 2 * _MARGIN
        if needed > self._image.height:
            longer = Image.new("RGB", (_WIDTH, 2 * needed), "white")
            longer.paste(self._image)
            self._image, self._draw = longer, ImageDraw.Draw(longer, "RGBA")

    def words(
        self,
        text: str,
        size: float,
        colour: str = COLOURS["ink"],
        x: float = _MARGIN,
        width: float = _WIDTH - 2 * _MARGIN,
    ) -> None:
        """Write lines of text that fill a width, and go below them."""
        font = _font(size)
        for line in _wrapped(text, font, width):
            self.make_room(2 * size)
            self._draw.text((x, self.y), line, colour, font)
            self.y += 1.35 * size

    def pair(self, x: float, y: float, width: float, name: str, value: str) -> None:
        """Write a name and its value at the ends of a line."""
        font = _font(34)
        self._draw.text((x, y), name, COLOURS["faint"], font)
        self._draw.text((x + width, y), value, COLOURS["ink"], font, anchor="ra")
        self._draw.line([(x, y + 44), (x + width, y + 44)], COLOURS["grid"], 2)

    def lamp(self, colour: str, size: float) -> None:
        """Draw a round lamp at the left of the next line."""
        top = self.y + 0.15 * size
        self._draw.ellipse((_MARGIN, top, _MARGIN + size, top + size), colour)

    def map(self, x: float, width: float, volume: ReportVolume, content: ReportContent) -> float:
        """Draw three slices of a map with its bar of colours; return the height."""
        edge = int((width - 20) / 3)
        size = max(30.0, edge / 9)
        self._draw.text((x, self.y), volume.label, COLOURS["ink"], _font(size))
        top = round(self.y + 1.3 * size)
        self._draw.rectangle((x, top, x + width, top + edge), "black")
        for place, plane in enumerate(content.planes(volume)):
            picture = plane_image(plane, volume, edge)
            left = round(x + place * (edge + 10) + (edge - picture.width) / 2)
            self._image.paste(picture, (left, top + (edge - picture.height) // 2))
        low, high = volume.window
        bar = top + edge + 10
        steps = [low + (high - low) * step / 255 for step in range(256)]
        colours = coloured(_row(steps), volume.window, volume.colours)
        strip = Image.fromarray(colours).resize((round(width), 22))
        self._image.paste(strip, (round(x), bar))
        font = _font(0.85 * size)
        ends = (f"{low:g}", f"{(low + high) / 2:g}", f"{high:g} {volume.unit}".strip())
        for part, (text, anchor) in enumerate(zip(ends, ("la", "ma", "ra"), strict=True)):
            place_x = x + part * width / 2
            self._draw.text((place_x, bar + 28), text, COLOURS["faint"], font, anchor=anchor)
        return bar + 28 + size - self.y

    def chart(self, x: float, width: float, drawing: Drawing) -> float:
        """Draw a chart with its title; return the height."""
        self._draw.text((x, self.y), drawing.title, COLOURS["ink"], _font(38))
        scale = width / drawing.width
        top = self.y + 56
        for shape in drawing.shapes:
            self._shape(shape, x, top, scale)
        return 56 + drawing.height * scale

    def _shape(self, shape: Any, x: float, y: float, scale: float) -> None:
        colour = COLOURS[shape.colour]
        if isinstance(shape, Rectangle):
            left, top = x + shape.x * scale, y + shape.y * scale
            box = (left, top, left + shape.width * scale, top + shape.height * scale)
            self._draw.rectangle(box, _faded(colour, shape.opacity))
        elif isinstance(shape, Line | Area):
            points = [(x + a * scale, y + b * scale) for a, b in shape.points]
            if isinstance(shape, Area):
                self._draw.polygon(points, _faded(colour, shape.opacity))
            else:
                self._draw.line(points, colour, max(2, round(shape.width * scale)), joint="curve")
        else:
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            place = x + shape.x * scale, y + shape.y * scale
            self._draw.text(place, shape.text, colour, _font(TEXT_SIZE * scale), anchor=anchor)


def _head(paper: _Paper, content: ReportContent) -> None:
    run = content.run
    paper.words("MRI2Qmap report", 72)
    facts = [content.identity]
    if content.made is not None:
        facts += [f"pipeline {run.pipeline}", f"{content.made:%Y-%m-%d %H:%M} UTC"]
    facts.append(f"mri2qmap {run.versions.get('mri2qmap', 'of unknown version')}")
    paper.words(", ".join(facts), 36, COLOURS["faint"])
    paper.words("Research software: not for diagnostic use.", 36, _LIGHTS[Light.AMBER][1])
    paper.y += 24
    name, colour = _LIGHTS[content.light]
    paper.lamp(colour, 52)
    paper.words(f"{name.capitalize()}: {TITLES[content.light]}", 52, colour, _MARGIN + 76)
    serious = [f for f in content.findings if f.light is not Light.GREEN]
    for finding in serious[:_MOST_FINDINGS]:
        _finding(paper, finding)
    passed = len(content.findings) - len(serious)
    more = f"{len(serious) - _MOST_FINDINGS} more in the page; " * (len(serious) > _MOST_FINDINGS)
    what, end = "checks", ""
    if not content.of_run:
        what, end = "checks of the maps", "; report.html has those of the run"
    paper.words(f"{more}{passed} {what} passed{end}", 36, COLOURS["faint"], _MARGIN + 76)
    paper.y += 30


def _finding(paper: _Paper, finding: Finding) -> None:
    name, colour = _LIGHTS[finding.light]
    top = paper.y
    paper.words(name, 36, colour, _MARGIN + 76)
    paper.y = top
    left = _MARGIN + 230
    paper.words(finding.text, 36, COLOURS["ink"], left, _WIDTH - _MARGIN - left)


def _maps(paper: _Paper, volumes: Sequence[ReportVolume], content: ReportContent) -> None:
    whole = _WIDTH - 2 * _MARGIN
    for group, columns in ((volumes[:_LARGE], _LARGE), (volumes[_LARGE:], _SMALL_COLUMNS)):
        width = (whole - _GAP * (columns - 1)) / columns
        for first in range(0, len(group), columns):
            paper.make_room(width)
            heights = [
                paper.map(_MARGIN + place * (width + _GAP), width, volume, content)
                for place, volume in enumerate(group[first : first + columns])
            ]
            paper.y += max(heights) + 30


def _charts(paper: _Paper, content: ReportContent) -> None:
    run = content.run
    drawings = [
        histogram_chart(name, counts, content.peaks, content.field)  # type: ignore[arg-type]
        for name, counts in content.histograms.items()
    ]
    drawings += convergence_drawings(run.iterations)
    waterfall = waterfall_chart(run.busy, run.number("last_acquisition_s"))
    drawings += [] if waterfall is None else [waterfall]
    columns = 3
    width = (_WIDTH - 2 * _MARGIN - _GAP * (columns - 1)) / columns
    paper.y += 20
    for first in range(0, len(drawings), columns):
        paper.make_room(width)
        heights = [
            paper.chart(_MARGIN + place * (width + _GAP), width, drawing)
            for place, drawing in enumerate(drawings[first : first + columns])
        ]
        paper.y += max(heights) + 30


def _numbers(paper: _Paper, content: ReportContent) -> None:
    run = content.run
    rows = scan_rows(content)
    if run.peak_bytes:
        rows.append(("Peak memory", f"{run.peak_bytes / 2**30:.2f} GiB"))
    half = (len(rows) + 1) // 2
    width = (_WIDTH - 2 * _MARGIN - _GAP) / 2
    paper.make_room(54 * half)
    for number, (name, value) in enumerate(rows):
        column, row = divmod(number, half)
        paper.pair(_MARGIN + column * (width + _GAP), paper.y + 54 * row, width, name, value)
    paper.y += 54 * half + 20
    changed = ", ".join(f"{c.gadget}.{c.name}={c.value}" for c in run.changed_settings)
    if run.gadgets:
        paper.words(f"Settings that are not the default: {changed or 'none'}", 34, COLOURS["faint"])


@functools.cache
def _font(size: float) -> Any:
    return ImageFont.load_default(size)


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    """Break a text into lines that are not wider than `width` [pixels], words kept whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _faded(colour: str, opacity: float) -> str:
    return f"{colour}{round(255 * opacity):02x}"


def _row(values: Sequence[float]) -> Any:
    import numpy as np

    return np.array([values])
