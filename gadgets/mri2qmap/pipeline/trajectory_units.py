"""Units of trajectories, and what the values in a unit reach."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

TrajectoryUnit = Literal[
    "cycles/voxel", "cycles/FOV", "1/m", "1/mm", "rad/voxel", "rad/m", "half_width"
]
"""Units that a scan profile may name. Voxel and field of view are those of ``reconSpace``. In
"half_width" the edge of k-space is 1."""
UNITS: tuple[TrajectoryUnit, ...] = get_args(TrajectoryUnit)
STANDARD_UNIT: TrajectoryUnit = "cycles/voxel"

LARGEST_COMPONENT = 0.5 + 1e-4
"""Largest component of a trajectory [cycles/voxel]; the excess is for rounding errors."""
SMALLEST_EXTENT = 0.4
"""Minimum extent of the trajectories along at least one axis [cycles/voxel]."""
SMALLEST_AXIS_EXTENT = 0.1
"""Minimum extent of the trajectories along each axis [cycles/voxel]."""

_SMALLEST_OF_ONE = 0.25
"""Minimum extent of a single trajectory along at least one axis, in any direction."""

_IN_WORDS: dict[TrajectoryUnit, str] = {
    "cycles/voxel": ", from -0.5 to 0.5",
    "cycles/FOV": ", that is -N/2..N/2 (divide by the matrix size)",
    "1/m": " (multiply by the voxel size in m)",
    "1/mm": " (multiply by the voxel size in mm)",
    "rad/voxel": " (divide by 2 pi)",
    "rad/m": " (multiply by the voxel size in m and divide by 2 pi)",
    "half_width": ", that is -1..1 (divide by 2)",
}


class HasGrid(Protocol):
    """Something with the grid of the images, as `mri2qmap.pipeline.scan_header.ScanInfo` has."""

    @property
    def matrix(self) -> tuple[int, int, int]:
        """Number of voxels (z, y, x)."""

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel edge lengths (z, y, x) [m]."""


class Grid(NamedTuple):
    """The grid of the images: number of voxels and their edge lengths [m], both (z, y, x)."""

    matrix: tuple[int, int, int]
    voxel_size: tuple[float, float, float]


def cycles_per_voxel(unit: TrajectoryUnit, grid: HasGrid) -> NDArray[np.float64]:
    """Return the factors (3,) that convert kx, ky, kz from a unit to cycles per voxel."""
    voxels = np.array(grid.matrix[::-1], dtype=np.float64)
    sizes = np.array(grid.voxel_size[::-1], dtype=np.float64)
    return {
        "cycles/voxel": np.ones(3),
        "cycles/FOV": 1 / voxels,
        "1/m": sizes,
        "1/mm": 1e3 * sizes,
        "rad/voxel": np.full(3, 1 / (2 * math.pi)),
        "rad/m": sizes / (2 * math.pi),
        "half_width": np.full(3, 0.5),
    }[unit]


def largest_value(unit: TrajectoryUnit, grid: HasGrid) -> float:
    """Return the largest component of a trajectory that reaches 0.5 cycles per voxel, in a unit."""
    return float(0.5 / cycles_per_voxel(unit, grid).min())


def fitting_units(
    extent: NDArray[np.float64],
    grid: HasGrid,
    besides: TrajectoryUnit | None = None,
    least: float = SMALLEST_EXTENT,
) -> list[TrajectoryUnit]:
    """Return the units in which trajectories are plausible, the most probable first.

    Parameters
    ----------
    extent
        Largest magnitude of kx, ky, kz (3,) as stored; those of axes that are not stored are zero.
    grid
        Matrix and voxel size.
    besides
        A unit that is left out.
    least
        Extent that is plausible at the least [cycles/voxel].
    """
    reached = {
        unit: float((extent * cycles_per_voxel(unit, grid)).max())
        for unit in UNITS
        if unit != besides
    }
    fitting = {unit: most for unit, most in reached.items() if least <= most <= LARGEST_COMPONENT}
    return sorted(fitting, key=lambda unit: abs(math.log(fitting[unit] / 0.5)))


def possible_units(
    extent: NDArray[np.float64], grid: HasGrid, given: TrajectoryUnit = STANDARD_UNIT
) -> str:
    """Say in which units trajectories may be, the most probable first, and what to set.

    Parameters
    ----------
    extent
        Largest magnitude of kx, ky, kz (3,) as stored.
    grid
        Matrix and voxel size.
    given
        The unit in which they are not plausible.
    """
    reached = float(extent.max())
    if reached == 0:
        return "all values are zero, so the trajectory is not set: write it"
    largest = {unit: largest_value(unit, grid) for unit in UNITS if unit != given}
    ranked = sorted(largest, key=lambda unit: abs(math.log(reached / largest[unit])))
    fitting = fitting_units(extent, grid, given, _SMALLEST_OF_ONE)
    ranked = [*fitting, *(unit for unit in ranked if unit not in fitting)]
    guesses = [f"{unit}{_IN_WORDS[unit]}: up to {largest[unit]:.4g}" for unit in ranked]
    text = f"it may be in {guesses[0]}; other possible units: {'; '.join(guesses[1:])}"
    if not fitting:
        return text
    return f"{text}; try trajectory_units = {fitting[0]!r} in a scan profile (--scan-profile)"
