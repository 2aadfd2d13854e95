"""Mask of the voxels with signal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIGNAL = 0.05
"""Usual threshold of `object_mask`."""


def object_mask(magnitude: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Return a mask (z, y, x) of the voxels with enough signal for T1 and T2.

    A voxel must reach a fraction of the robust maximum, and the mean of its 3 x 3 x 3
    neighbourhood 1.5 times that fraction: single noise voxels outside the head exceed any useful
    threshold.

    Parameters
    ----------
    magnitude
        |PD| (z, y, x).
    threshold
        Fraction of the robust maximum, the 99th percentile of |PD| (the maximum if that is zero).
        0 keeps every voxel.
    """
    from scipy.ndimage import uniform_filter  # takes time to load, and gadgets start without it

    if threshold == 0:
        return np.ones(magnitude.shape, dtype=bool)
    reference = float(np.percentile(magnitude, 99)) or float(magnitude.max())
    surroundings = uniform_filter(magnitude, 3, mode="nearest")
    enough = threshold * reference
    mask: NDArray[np.bool_] = magnitude >= enough
    mask &= (surroundings >= 1.5 * enough) & (magnitude > 0)
    return mask
