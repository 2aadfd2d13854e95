"""Drawings of lines, rectangles and words, which become SVG in a page or pixels in a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

COLOURS = {
    "ink": "#1b2530",
    "faint": "#5b6773",
    "grid": "#d5dbe1",
    "first": "#2166ac",
    "second": "#b2560d",
    "third": "#1b7837",
    "fourth": "#762a83",
}
"""Colours of a light background by their names; a page has others for a dark one."""
TEXT_SIZE = 11.0


@dataclass(frozen=True)
class Rectangle:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Line:
    """Straight lines through points."""

    points: tuple[Point, ...]
    colour: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    points: tuple[Point, ...]
    colour: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Words:
    """A line of text; `y` is its base line."""

    x: float
    y: float
    text: str
    colour: str = "ink"
    anchor: Anchor = "start"


Shape = Rectangle | Line | Area | Words


@dataclass
class Drawing:
    """Shapes on an area of `width` x `height`, with y downwards.

    `title` says in words what is drawn, for people who do not see it.
    """

    width: float
    height: float
    title: str
    shapes: list[Shape] = field(default_factory=list)

    def rectangle(
        self, x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0
    ) -> None:
        """Add a rectangle; one without an area is left out."""
        if width > 0 and height > 0:
            self.shapes.append(Rectangle(x, y, width, height, colour, opacity))

    def line(
        self, points: Sequence[Point], colour: str, width: float = 1.0, dashed: bool = False
    ) -> None:
        """Add a line through points."""
        self.shapes.append(Line(tuple(points), colour, width, dashed))

    def area(self, points: Sequence[Point], colour: str, opacity: float = 1.0) -> None:
        """Add a polygon."""
        self.shapes.append(Area(tuple(points), colour, opacity))

    def words(
        self, x: float, y: float, text: str, colour: str = "ink", anchor: Anchor = "start"
    ) -> None:
        """Add a line of text."""
        self.shapes.append(Words(x, y, text, colour, anchor))

    def svg(self) -> str:
        """Return an ``<svg>`` element; colours are the CSS variables ``--ink``, ``--grid``..."""
        inside = "".join(_element(shape) for shape in self.shapes)
        title = escape(self.title)
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{title}">'
            f"{inside}</svg>"
        )


def _element(shape: Shape) -> str:
    if isinstance(shape, Rectangle):
        place = f'x="{_n(shape.x)}" y="{_n(shape.y)}"'
        size = f'width="{_n(shape.width)}" height="{_n(shape.height)}"'
        return f'<rect {place} {size} fill="var(--{shape.colour})"{_opacity(shape.opacity)}/>'
    if isinstance(shape, Words):
        anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
        place = f'x="{_n(shape.x)}" y="{_n(shape.y)}"'
        return f'<text {place}{anchor} fill="var(--{shape.colour})">{escape(shape.text)}</text>'
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
    if isinstance(shape, Area):
        return f'<polygon points="{points}" fill="var(--{shape.colour})"{_opacity(shape.opacity)}/>'
    dashes = ' stroke-dasharray="4 3"' if shape.dashed else ""
    stroke = f'stroke="var(--{shape.colour})" stroke-width="{_n(shape.width)}"'
    return f'<polyline points="{points}" fill="none" {stroke}{dashes}/>'


def _opacity(value: float) -> str:
    return "" if value == 1 else f' fill-opacity="{_n(value)}"'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
