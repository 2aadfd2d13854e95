"""Figures of maps, the truth and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from mri2qmap.evaluation.maps import Maps
from mri2qmap.evaluation.metrics import mape
from mri2qmap.export.anatomical_planes import planes
from mri2qmap.simulation.truth import Truth

ERROR_WINDOW = 40.0
"""Relative error [%] at the ends of the colour scale."""

OBJECT_DENSITY = 0.1
"""Proton density above which a voxel belongs to the object."""
_INCH_PER_PANEL = 1.6


@dataclass(frozen=True)
class _Quantity:
    name: str
    attribute: str
    window_ms: tuple[float, float]
    colours: str


_QUANTITIES = (
    _Quantity("T1", "t1", (300.0, 1900.0), "inferno"),
    _Quantity("T2", "t2", (30.0, 130.0), "viridis"),
)


def comparison_figure(
    path: Path, truth: Truth, results: Mapping[str, Maps], dpi: int = 130
) -> None:
    """Save T1 and T2 in three planes: the truth, each result, and its relative error.

    Windows are fixed, 300 to 1900 ms for T1 and 30 to 130 ms for T2, so that figures of different
    runs can be compared; CSF is above both. Each plane shows the slice with the most white and grey
    matter, in radiological convention: the patient's right is on the left. Voxels outside of the
    true object are black. The numbers above the error maps are mean absolute errors over white and
    grey matter.

    Parameters
    ----------
    path
        PNG file to write.
    truth
        The truth.
    results
        Maps by their title, in order.
    dpi
        Resolution [dots per inch].
    """
    mask = truth.proton_density > OBJECT_DENSITY
    width = _INCH_PER_PANEL * (1 + 2 * len(results)) + 1.0
    figure = Figure(figsize=(width, 2 * (3 * _INCH_PER_PANEL + 0.35)), facecolor="black", dpi=dpi)
    halves: Any = figure.subfigures(2, 1, hspace=0.0)
    for half, quantity in zip(halves, _QUANTITIES, strict=True):
        half.set_facecolor("black")
        _draw(half, quantity, truth, results, mask, width)
    figure.savefig(path, format="png", facecolor="black")


def _draw(
    figure: SubFigure,
    quantity: _Quantity,
    truth: Truth,
    results: Mapping[str, Maps],
    mask: NDArray[np.bool_],
    width: float,
) -> None:
    """Draw one quantity: a row for each plane, columns for the truth, the maps and their errors."""
    true = getattr(truth, quantity.attribute)
    matter = truth.white_matter | truth.grey_matter
    columns = [(f"{quantity.name} truth", 1e3 * true, False)]
    for name, maps in results.items():
        found = getattr(maps, quantity.attribute)
        error = 100 * (found / np.where(mask, true, 1) - 1)
        columns.append((name, 1e3 * found, False))
        columns.append((f"error, mean {mape(found, true, matter):.1f} %", error, True))
    right = 1 - 0.95 / width
    grid = figure.subplots(
        3,
        len(columns),
        squeeze=False,
        gridspec_kw={
            "left": 0.005,
            "right": right,
            "bottom": 0.005,
            "top": 0.93,
            "wspace": 0.02,
            "hspace": 0.02,
        },
    )
    centre = _fullest_slices(matter)
    box = _box(mask)
    centre = (centre[0] - box[0].start, centre[1] - box[1].start, centre[2] - box[2].start)
    for column, (title, volume, is_error) in enumerate(columns):
        grid[0, column].set_title(title, color="white", fontsize=9, pad=4)
        views = planes(np.where(mask, volume, np.nan)[box], truth.affine, centre)
        for axes, (picture, aspect, letters) in zip(grid[:, column], views, strict=True):
            shown = axes.imshow(
                picture, aspect=aspect, interpolation="nearest", **_scale(quantity, is_error)
            )
            axes.set_axis_off()
            if column == 0:
                _label(axes, letters)
        if column in (0, 2):
            label = "error [%]" if is_error else f"{quantity.name} [ms]"
            bar_axes = figure.add_axes(
                (right + 0.1 / width, 0.06 if is_error else 0.54, 0.12 / width, 0.36)
            )
            bar = figure.colorbar(shown, cax=bar_axes, extend="both")
            bar.ax.tick_params(colors="white", labelsize=8)
            bar.set_label(label, color="white", fontsize=9)


def _scale(quantity: _Quantity, is_error: bool) -> dict[str, Any]:
    name = "RdBu_r" if is_error else quantity.colours
    low, high = (-ERROR_WINDOW, ERROR_WINDOW) if is_error else quantity.window_ms
    return {
        "cmap": matplotlib.colormaps[name].with_extremes(bad="black"),
        "vmin": low,
        "vmax": high,
    }


def _fullest_slices(matter: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Index of the slice with the most voxels of a mask, along each axis (z, y, x)."""
    z, y, x = (
        int(matter.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        for axis in range(3)
    )
    return (z, y, x)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Cube around a mask, within the volume, so that all planes have the same scale."""
    found = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not len(found[0]):
        return (slice(0, None), slice(0, None), slice(0, None))
    half = max(int(f[-1] - f[0]) for f in found) // 2 + 3
    middles = [int(f[-1] + f[0]) // 2 for f in found]
    z, y, x = (slice(max(0, middle - half), middle + half + 1) for middle in middles)
    return (z, y, x)


def _label(axes: Axes, letters: str) -> None:
    for letter, x, y in zip(letters, (0.02, 0.98, 0.5, 0.5), (0.5, 0.5, 0.98, 0.02), strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=8,
            path_effects=[withStroke(linewidth=2, foreground="black")],
            ha={0.02: "left", 0.98: "right"}.get(x, "center"),
            va={0.98: "top", 0.02: "bottom"}.get(y, "center"),
        )
