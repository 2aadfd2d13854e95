"""Slices of a volume as radiologists look at them."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

_PLANES = ((2, "RLAP"), (1, "RLSI"), (0, "APSI"))
"""Axis (right, anterior, superior) perpendicular to each plane, and the directions at its left,
right, top and bottom edges."""


def middle(t1: NDArray[np.floating]) -> tuple[int, int, int]:
    """Voxel (z, y, x) in the middle of the object, which is where T1 (z, y, x) is not zero."""
    places = np.argwhere(t1 > 0)
    z, y, x = places.mean(0).astype(int) if len(places) else (n // 2 for n in t1.shape)
    return (int(z), int(y), int(x))


def planes(
    volume: NDArray[Any], affine: NDArray[np.float64], centre: tuple[int, int, int]
) -> list[tuple[NDArray[Any], float, str]]:
    """Axial, coronal and sagittal slices in radiological convention.

    Parameters
    ----------
    volume
        (z, y, x).
    affine
        Voxel indices (x, y, z, 1) to right-anterior-superior [mm]. For oblique volumes, the planes
        closest to the anatomical ones are returned.
    centre
        Voxel (z, y, x) through which all planes run.

    Returns
    -------
        For each plane: the image (rows, columns), the height of a pixel in units of its width, and
        the letters of the directions at its left, right, top and bottom edges.
    """
    turn = nib.orientations.io_orientation(affine)
    marker = np.zeros(volume.shape, dtype=bool)
    marker[centre] = True
    straight, where = (
        nib.orientations.apply_orientation(np.ascontiguousarray(v.T), turn)
        for v in (volume, marker)
    )
    index = np.argwhere(where)[0]
    sizes = np.empty(3)
    sizes[turn[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    pictures = []
    for normal, letters in _PLANES:
        across, up = (axis for axis in range(3) if axis != normal)
        # Rows run downwards, columns to the patient's left or to posterior.
        picture = straight.take(index[normal], axis=normal).T[::-1, ::-1]
        pictures.append((picture, float(sizes[up] / sizes[across]), letters))
    return pictures
