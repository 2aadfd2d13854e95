"""Lesions of known size and contrast, drawn into quantitative maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.anatomy.random_fields import Array, ball_coverage, squared_distance


@dataclass(frozen=True)
class Lesion:
    """A spherical lesion.

    Attributes
    ----------
    name
        Name in tables.
    diameter_mm
        Diameter [mm].
    t1, t2
        Relaxation times [s], or factors of the tissue's if `relative`.
    proton_density
        Proton density, or factor of the tissue's if `relative`.
    relative
        Whether the values are factors of the tissue's own.
    core_mm
        Diameter of a core of hyperintense tissue inside a rim [mm]; 0: the lesion is uniform.
    centre
        Centre (i, j, k) [voxels]; empty before it is placed.
    """

    name: str
    diameter_mm: float
    t1: float
    t2: float
    proton_density: float = 0.85
    relative: bool = False
    core_mm: float = 0.0
    centre: tuple[float, ...] = ()


LESIONS = (
    Lesion("enhancing rim", 10, 0.45, 0.09, core_mm=6),
    Lesion("hyperintense 8 mm", 8, 1.4, 0.15),
    Lesion("+10 % 8 mm", 8, 1.1, 1.1, 1.0, relative=True),
    Lesion("bleed 6 mm", 6, 0.9, 0.03, 0.75),
    Lesion("hyperintense 5 mm", 5, 1.4, 0.15),
    Lesion("hyperintense 3 mm", 3, 1.4, 0.15),
)
"""Lesions of graded size and contrast, in the order in which they are placed: white-matter
hyperintensities, a faint one, a bleed with short T2, and one whose rim takes up contrast agent."""

CORE = (1.4, 0.15, 0.85)
"""T1, T2 [s] and proton density inside a rim."""

MARGIN_MM = 1.5
"""Distance of a lesion from the border of the white matter where there is room [mm].

Elsewhere up to half of its radius may lie outside."""


def place_lesions(
    lesions: tuple[Lesion, ...],
    white_matter: NDArray[np.bool_],
    voxel_mm: tuple[float, float, float],
    rng: np.random.Generator,
    region: NDArray[np.bool_] | None = None,
) -> tuple[Lesion, ...]:
    """Choose places in white matter, apart from one another.

    Parameters
    ----------
    lesions
        Lesions, the largest first.
    white_matter
        (i, j, k), bool.
    voxel_mm
        Voxel edge lengths [mm].
    rng
        Random number generator.
    region
        Where centres may be (i, j, k), bool; None: anywhere.

    Returns
    -------
        Those that found a place, with their centres.
    """
    room = ndimage.distance_transform_edt(white_matter, sampling=voxel_mm)
    if region is not None:
        room = room * region
    placed: list[Lesion] = []
    for lesion in lesions:
        radius = lesion.diameter_mm / 2
        for margin in (MARGIN_MM, MARGIN_MM / 2, 0.0, -0.25 * radius, -0.5 * radius):
            candidates = np.argwhere(room >= radius + margin)
            if len(candidates):
                break
        else:
            continue
        centre = candidates[rng.integers(len(candidates))]
        placed.append(replace(lesion, centre=tuple(float(c) for c in centre)))
        # Others keep a distance at which surroundings can be compared.
        distance = np.sqrt(squared_distance(white_matter.shape, voxel_mm, centre))
        room = np.minimum(room, distance - radius - 2 * MARGIN_MM)
    return tuple(placed)


def draw_lesions(
    lesions: tuple[Lesion, ...],
    maps: tuple[Array, Array, Array],
    voxel_mm: tuple[float, float, float],
) -> NDArray[np.int16]:
    """Draw placed lesions into T1, T2 and proton density (i, j, k), which are changed.

    Voxels at the border are mixtures: the logarithms of the relaxation times and the densities are
    interpolated.

    Returns
    -------
        Number of the lesion (from 1) in voxels that are more than half filled, 0 elsewhere.
    """
    labels = np.zeros(maps[0].shape, dtype=np.int16)
    for number, lesion in enumerate(lesions, start=1):
        centre = np.asarray(lesion.centre)
        values = (lesion.t1, lesion.t2, lesion.proton_density)
        _blend(maps, centre, lesion.diameter_mm / 2, values, lesion.relative, voxel_mm)
        if lesion.core_mm:
            _blend(maps, centre, lesion.core_mm / 2, CORE, False, voxel_mm)
        box, coverage = ball_coverage(maps[0].shape, voxel_mm, centre, lesion.diameter_mm / 2)
        labels[box][coverage > 0.5] = number
    return labels


def _blend(
    maps: tuple[Array, Array, Array],
    centre: NDArray[np.float64],
    radius_mm: float,
    values: tuple[float, float, float],
    relative: bool,
    voxel_mm: tuple[float, float, float],
) -> None:
    box, share = ball_coverage(maps[0].shape, voxel_mm, centre, radius_mm)
    for volume, value in zip(maps, values, strict=True):
        part = volume[box]
        target = part * np.float32(value) if relative else np.float32(value)
        part[:] = part ** (1 - share) * target**share
