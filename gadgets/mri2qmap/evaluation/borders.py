"""Sharpness of the borders between white and grey matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STRONG_GRADIENT = 0.5
"""Gradient of a border voxel, relative to the 90th percentile in the zone, from which it counts."""
BORDER_REACH = 2
"""Distance of the border zone from both tissues [voxels]."""
NO_BORDER = 1e-3
"""Difference of the logarithms between neighbours below which the truth has no border."""


def border_zone(
    white_matter: NDArray[np.bool_], grey_matter: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Voxels at the border of white and grey matter.

    They are within `BORDER_REACH` voxels (along each axis) of both tissues, and they and their six
    neighbours are usable.

    Parameters
    ----------
    white_matter, grey_matter
        Voxels of the tissue, without those of mixed tissue (z, y, x).
    usable
        Voxels of white matter, grey matter, and mixtures of the two only (z, y, x).
    """
    cube = np.ones((2 * BORDER_REACH + 1,) * 3, dtype=bool)
    near = ndimage.binary_dilation(white_matter, cube) & ndimage.binary_dilation(grey_matter, cube)
    return np.asarray(near & ndimage.binary_erosion(usable), dtype=bool)


def border_sharpness(
    estimate: NDArray[np.floating],
    reference: NDArray[np.floating],
    zone: NDArray[np.bool_],
    voxel_size: Sequence[float],
) -> float:
    """Sharpness of borders relative to the truth.

    It is the regression slope, through the origin, of the gradient of log estimate, projected on
    the direction of the true gradient, on the magnitude of the gradient of log reference. It runs
    over the voxels of the zone whose true gradient is at least `STRONG_GRADIENT` of its 90th
    percentile there. Gradients are central differences. 1: as sharp as the truth; below 1: blurred,
    or of less contrast; noise does not change it on average. The logarithm makes it independent of
    a factor.

    Parameters
    ----------
    estimate, reference
        Relaxation times (z, y, x). Voxels at which one of them, or of their neighbours, is not
        positive are left out.
    zone
        See `border_zone` (z, y, x).
    voxel_size
        (z, y, x) [mm].

    Returns
    -------
        NaN without a border in the truth.
    """
    zone = zone & ndimage.binary_erosion((estimate > 0) & (reference > 0))
    if not zone.any():
        return float("nan")
    found, true = (_log_gradient(volume, zone, voxel_size) for volume in (estimate, reference))
    size = np.linalg.norm(true, axis=0)
    strong = size >= STRONG_GRADIENT * np.percentile(size, 90)
    total = float(np.sum(true[:, strong] ** 2))
    if np.sqrt(total / strong.sum()) * max(voxel_size) < NO_BORDER:
        return float("nan")
    return float(np.sum(found[:, strong] * true[:, strong]) / total)


def _log_gradient(
    volume: NDArray[np.floating], zone: NDArray[np.bool_], voxel_size: Sequence[float]
) -> NDArray[np.float64]:
    """Gradient of the logarithm [1/mm] (axis, voxel of the zone)."""
    logarithm = np.log(np.where(volume > 0, volume, 1).astype(np.float64))
    gradient: Any = np.gradient(logarithm, *voxel_size)
    return np.stack([part[zone] for part in gradient])
