"""Slices of maps as PNG."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from PIL import Image

from mri2qmap.report.colours import coloured, gradient
from mri2qmap.report.content import PLANE_NAMES, Plane, ReportContent
from mri2qmap.report.volumes import ReportVolume

_SMALLEST = 160
"""Pixels along the longer edge to which smaller slices are enlarged."""


def plane_image(plane: Plane, volume: ReportVolume, edge: int) -> Image.Image:
    """Return a slice in colour, its longer edge of about `edge` pixels; voxels stay sharp."""
    picture = Image.fromarray(coloured(plane.values, volume.window, volume.colours))
    height, width = picture.height * plane.aspect, float(picture.width)
    scale = edge / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture.resize(size, Image.Resampling.NEAREST)


def png(picture: Image.Image, dots: int | None = None) -> bytes:
    """Return a picture as a PNG file, with a resolution in dots per inch where it has one."""
    content = io.BytesIO()
    more: dict[str, Any] = {} if dots is None else {"dpi": (dots, dots)}
    picture.save(content, format="PNG", **more)
    return content.getvalue()


def figure(content: ReportContent, volume: ReportVolume) -> str:
    """Return a ``<figure>`` of three slices with a bar of colours."""
    slices = []
    for name, plane in zip(PLANE_NAMES, content.planes(volume), strict=True):
        edge = max(_SMALLEST, *plane.values.shape)
        data = base64.b64encode(png(plane_image(plane, volume, edge))).decode()
        letters = "".join(
            f'<i class="{side}">{letter}</i>'
            for side, letter in zip("lrtb", plane.letters, strict=True)
        )
        alt = escape(f"{volume.label}, {name} slice")
        slices.append(
            f'<span class="slice"><img alt="{alt}" src="data:image/png;base64,{data}">{letters}'
            "</span>"
        )
    return (
        f"<figure><figcaption>{escape(volume.label)}</figcaption>"
        f'<div class="slices">{"".join(slices)}</div>{colour_bar(volume)}</figure>'
    )


def colour_bar(volume: ReportVolume) -> str:
    """Return a bar of colours with the ends and the middle of the window and the unit."""
    low, high = volume.window
    unit = f" {volume.unit}" if volume.unit else ""
    ticks = "".join(f"<span>{value:g}</span>" for value in (low, (low + high) / 2))
    return (
        f'<div class="bar"><div style="background:{gradient(volume.colours)}"></div>'
        f"<p>{ticks}<span>{high:g}{escape(unit)}</span></p></div>"
    )
