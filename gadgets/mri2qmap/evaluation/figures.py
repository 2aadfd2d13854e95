"""Pictures of maps beside the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from mri2qmap.evaluation.evaluate import Maps
from mri2qmap.evaluation.metrics import mape
from mri2qmap.simulation.truth import Truth

ERROR_WINDOW = 40.0
"""Relative error [%] at the ends of the colour scale."""

_PATIENT_AXES = (("R", "L"), ("P", "A"), ("I", "S"))
_INCH_PER_PANEL = 1.55


@dataclass(frozen=True)
class _Quantity:
    name: str
    attribute: str
    window_ms: float
    colours: str


_QUANTITIES = (
    _Quantity("T1", "t1", 2000.0, "inferno"),
    _Quantity("T2", "t2", 150.0, "viridis"),
)


def comparison_figure(
    path: Path, truth: Truth, results: Mapping[str, Maps], dpi: int = 130
) -> None:
    """Save T1 and T2 in three planes: the truth, each result, and its error.

    Windows are fixed, 0 to 2000 ms for T1 and 0 to 150 ms for T2, so that pictures of different
    runs can be compared; CSF is brighter than both. Slices are shown in radiological convention,
    the patient's right on the left. Everything is masked to the object of the truth.

    Parameters
    ----------
    path
        PNG file to write.
    truth
        The truth.
    results
        Maps by the name that stands above them, in order.
    dpi
        Dots per inch.
    """
    mask = truth.proton_density > 0.1
    turned = {name: maps for name, maps in results.items()}
    columns = 1 + 2 * len(turned)
    size = _INCH_PER_PANEL
    figure = Figure(figsize=(size * columns + 0.9, 6 * size + 1.1), facecolor="black", dpi=dpi)
    halves = figure.subfigures(2, 1, hspace=0.0)
    centre = _centre(mask)
    for half, quantity in zip(halves, _QUANTITIES, strict=True):
        half.set_facecolor("black")
        _draw_quantity(half, quantity, truth, turned, mask, centre)
    figure.savefig(path, facecolor="black")


def _draw_quantity(
    figure: SubFigure,
    quantity: _Quantity,
    truth: Truth,
    results: Mapping[str, Maps],
    mask: NDArray[np.bool_],
    centre: tuple[int, int, int],
) -> None:
    import matplotlib

    colours = matplotlib.colormaps[quantity.colours].with_extremes(bad="black")
    signed = matplotlib.colormaps["RdBu_r"].with_extremes(bad="black")
    true = getattr(truth, quantity.attribute)
    matter = truth.white_matter | truth.grey_matter
    titles, volumes = [f"{quantity.name}: truth"], [1e3 * true]
    for name, maps in results.items():
        found = getattr(maps, quantity.attribute)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = 100 * (found / true - 1)
        titles += [name, f"error ({mape(found, true, matter):.1f} %)"]
        volumes += [1e3 * found, error]
    columns = len(volumes)
    grid = figure.subplots(
        3, columns, gridspec_kw={
            "left": 0.005, "right": 0.90, "bottom": 0.01, "top": 0.93, "wspace": 0.02,
            "hspace": 0.02,
        }, squeeze=False,
    )  # fmt: skip
    shown: dict[bool, object] = {}
    for column, (title, volume) in enumerate(zip(titles, volumes, strict=True)):
        is_error = column > 0 and column % 2 == 0
        window = (-ERROR_WINDOW, ERROR_WINDOW) if is_error else (0.0, quantity.window_ms)
        grid[0, column].set_title(title, color="white", fontsize=9, pad=4)
        masked = np.where(mask, volume, np.nan)
        for row in range(3):
            view, aspect, letters = _plane(masked, truth.affine, row, centre)
            axes = grid[row, column]
            axes.set_axis_off()
            shown[is_error] = axes.imshow(
                view,
                cmap=signed if is_error else colours,
                vmin=window[0],
                vmax=window[1],
                aspect=aspect,
                interpolation="nearest",
            )
            if column == 0:
                _label(axes, letters)
    for is_error, bottom, label in ((False, 0.52, f"{quantity.name} [ms]"), (True, 0.05, "error [%]")):
        if is_error not in shown:
            continue
        bar_axes = figure.add_axes((0.915, bottom, 0.014, 0.38))
        bar = figure.colorbar(shown[is_error], cax=bar_axes)  # type: ignore[arg-type]
        bar.ax.tick_params(colors="white", labelsize=8)
        bar.outline.set_edgecolor("white")  # type: ignore[operator]
        bar.set_label(label, color="white", fontsize=9)


def _plane(
    volume: NDArray[np.float32],
    affine: NDArray[np.float64],
    plane: int,
    centre: tuple[int, int, int],
) -> tuple[NDArray[np.float32], float, tuple[str, str, str, str]]:
    """Slice `plane` (0, 1, 2 for axial, coronal, sagittal-like) as it is to be shown.

    Returns the picture, the height of a pixel in units of its width, and the letters of its left,
    right, top and bottom edges.
    """
    # Array axes (z, y, x), each with the patient axis (right, anterior, superior) it is closest to.
    directions = affine[:3, 2::-1]
    sizes = np.linalg.norm(directions, axis=0)
    cosines = directions / sizes
    patient = _closest_axes(cosines)
    normal, across, up = ((2, 0, 1), (1, 0, 2), (0, 1, 2))[plane]
    axes = [patient.index(wanted) for wanted in (normal, up, across)]
    picture = volume.take(centre[axes[0]], axis=axes[0])
    remaining = [axis for axis in range(3) if axis != axes[0]]
    if remaining[0] != axes[1]:
        picture = picture.T
    # Up on the screen is the first row: the up axis must fall; the patient's right is on the left.
    letters = []
    rising = cosines[up, axes[1]] > 0
    if rising:
        picture = picture[::-1]
    wants_rising = across == 0
    to_left, to_right = (
        _PATIENT_AXES[across][::1] if wants_rising else _PATIENT_AXES[across][::-1]
    )
    points_left = cosines[across, axes[2]] < 0 if wants_rising else cosines[across, axes[2]] > 0
    if not points_left:
        picture = picture[:, ::-1]
    letters = [to_left, to_right, _PATIENT_AXES[up][1], _PATIENT_AXES[up][0]]
    return picture, float(sizes[axes[1]] / sizes[axes[2]]), tuple(letters)  # type: ignore
