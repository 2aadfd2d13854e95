"""Figures of the maps of one reconstruction."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.anatomical_planes import middle, planes

_INCH = 2.1
"""Width and height of a panel."""
_BAR_INCH = 1.1
_TITLE_INCH = 0.3
_PLANE_NAMES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class _Style:
    """How a volume is shown: values are multiplied by `factor` for the unit of the colour bar.

    Zeros of volumes that are `masked` are black, which no other value is.
    """

    title: str
    unit: str
    window: tuple[float, float] | None = None
    colours: str = "gray"
    factor: float = 1.0
    masked: bool = False


_STYLES = {
    "t1": _Style("T1", "ms", (0.0, 3000.0), "inferno", 1e3, masked=True),
    "t2": _Style("T2", "ms", (0.0, 200.0), "viridis", 1e3, masked=True),
    "proton_density": _Style("|PD|", "a.u."),
    "match_quality": _Style("match quality", "1", (0.98, 1.0)),
    "t1_std": _Style("std. dev. of T1", "ms", (0.0, 300.0), "inferno", 1e3, masked=True),
    "t2_std": _Style("std. dev. of T2", "ms", (0.0, 20.0), "viridis", 1e3, masked=True),
    "consistency": _Style("data - prior, in noise", "1", (0.0, 5.0), "inferno", masked=True),
    "receive_field_map": _Style("receive field", "1", (0.0, 2.0)),
    "T1w": _Style("synthetic T1w", "a.u."),
    "T2w": _Style("synthetic T2w", "a.u."),
    "PDw": _Style("synthetic PDw", "a.u."),
}
_DEFAULT = ("t1", "t2", "proton_density", "t1_std", "t2_std", "consistency", "receive_field_map")


class MapFigure(Figure):
    """A matplotlib figure that notebooks show without a backend."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def map_figure(
    volumes: Mapping[str, NDArray[Any]],
    affine: NDArray[np.float64] | None = None,
    names: Iterable[str] | None = None,
    dpi: int = 100,
) -> Figure:
    """Draw volumes in three planes through the middle of the object; see `Maps.plot`.

    Display windows are fixed, but those of volumes in arbitrary units go to their 99.9th
    percentile. Slices are shown in radiological convention, the patient's right on the left;
    without an affine, x, y and z are taken for the patient's right, anterior and superior axes.

    Parameters
    ----------
    volumes
        Volumes (z, y, x) by name, as `Maps.volumes`; T1 tells where the object is.
    affine
        Voxel indices (x, y, z, 1) to right-anterior-superior [mm]; None: not known.
    names
        Which of them; None: T1, T2, proton density and optional maps.
    dpi
        Dots per inch.

    Raises
    ------
    Mri2QmapError
        If a name is not one of the volumes, or there is none.
    """
    if isinstance(names, str) or not isinstance(names, Iterable | None):
        raise Mri2QmapError(
            f"plot: a list of names is expected, got {names!r} (known: {', '.join(volumes)})"
        )
    chosen = [n for n in _DEFAULT if n in volumes] if names is None else list(names)
    unknown = [str(name) for name in chosen if name not in list(volumes)]
    if unknown or not chosen:
        what = f"{', '.join(unknown)} is not among the volumes" if unknown else "no volume is named"
        raise Mri2QmapError(f"plot: {what} (known: {', '.join(volumes)})")
    affine = np.eye(4) if affine is None else affine
    centre = middle(volumes["t1"])
    width = 3 * _INCH + _BAR_INCH
    height = _INCH * len(chosen) + _TITLE_INCH
    figure = MapFigure(figsize=(width, height), facecolor="black", dpi=dpi)
    grid = figure.subplots(
        len(chosen),
        3,
        squeeze=False,
        gridspec_kw={
            "left": 0.005,
            "right": 1 - _BAR_INCH / width,
            "bottom": 0.005,
            "top": 1 - _TITLE_INCH / height,
            "wspace": 0.02,
            "hspace": 0.04,
        },
    )
    for axes, plane in zip(grid[0], _PLANE_NAMES, strict=True):
        axes.set_title(plane, color="white", fontsize=9, pad=4)
    for row, name in zip(grid, chosen, strict=True):
        _draw_row(figure, row, _STYLES[name], volumes[name], affine, centre)
    return figure


def _draw_row(
    figure: Figure,
    row: NDArray[Any],
    style: _Style,
    volume: NDArray[Any],
    affine: NDArray[np.float64],
    centre: tuple[int, int, int],
) -> None:
    """Draw one volume (z, y, x), and its colour bar beside the last panel."""
    values = style.factor * np.abs(volume)
    if style.masked:
        values = np.where(values > 0, values, np.nan)
    low, high = style.window or (0.0, float(np.percentile(values, 99.9)) or 1.0)
    for axes, (picture, aspect, _) in zip(row, planes(values, affine, centre), strict=True):
        shown = axes.imshow(
            picture,
            aspect=aspect,
            interpolation="nearest",
            cmap=matplotlib.colormaps[style.colours].with_extremes(bad="black"),
            vmin=low,
            vmax=high,
        )
        axes.set_axis_off()
    box = row[-1].get_position()
    place = (box.x1 + 0.01, box.y0 + 0.1 * box.height, 0.02, 0.8 * box.height)
    bar = figure.colorbar(shown, cax=figure.add_axes(place), extend="max")
    bar.ax.tick_params(colors="white", labelsize=8)
    bar.set_label(f"{style.title} [{style.unit}]", color="white", fontsize=9)
