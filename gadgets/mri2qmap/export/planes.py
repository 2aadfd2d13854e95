"""Arrangement of a volume as a stack of DICOM slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mri2qmap.pipeline.geometry import Geometry

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Conventional row and column directions (LPS) of sagittal, coronal and axial slices, indexed by the
# patient axis that is closest to the slice normal.
_DISPLAY = (
    ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
)


def patient_affine(geometry: Geometry) -> NDArray[np.float64]:
    """Return the map from homogeneous voxel indices (x, y, z, 1) to coordinates (LPS) [mm].

    The directions, stored in single precision in the acquisition headers, are replaced by the
    closest orthonormal ones, as required by DICOM and the NIfTI quaternion. The position of the
    centre voxel is preserved.
    """
    affine = geometry.affine_lps
    spacing = np.array(geometry.voxel_size[::-1])
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    scaled = (left @ right) * spacing
    centre = np.array([n // 2 for n in geometry.matrix[::-1]])
    affine[:3, 3] += (affine[:3, :3] - scaled) @ centre
    affine[:3, :3] = scaled
    affine[:3] *= 1e3
    return affine


@dataclass(frozen=True)
class SliceStack:
    """Slices perpendicular to the slice direction, in radiological display orientation.

    Rows and columns are swapped or reversed, but not resampled, so that the patient's anterior or
    head is up, and the patient's right (in sagittal slices, anterior) is on the left. The slices
    are ordered along the cross product of row and column direction, even if the axes of the
    acquisition form a left-handed system.

    Attributes
    ----------
    axes
        Array axes (0 = z, 1 = y, 2 = x) that become slice, row and column index.
    flips
        Whether each of the three axes is reversed.
    orientation
        ImageOrientationPatient: direction cosines (LPS) of the rows, then of the columns.
    positions
        ImagePositionPatient [mm]: centre of the first pixel of each slice, (slices, 3).
    pixel_spacing
        Distance between rows, then between columns [mm].
    slice_spacing
        Distance between slices [mm].
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    orientation: tuple[float, ...]
    positions: NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    slice_spacing: float

    def arrange(self, volume: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Reorder a volume (z, y, x) to (slice, row, column)."""
        reverse = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        return np.ascontiguousarray(np.flip(volume.transpose(self.axes), reverse))


def slice_stack(geometry: Geometry) -> SliceStack:
    """Return the slices of a volume in display orientation, see `SliceStack`."""
    affine = patient_affine(geometry)
    spacing = 1e3 * np.array(geometry.voxel_size)
    # one row per array axis: z, y, x
    directions = affine[:3, 2::-1].T / spacing[:, np.newaxis]
    row_target, column_target = np.array(_DISPLAY[int(np.argmax(np.abs(directions[0])))])
    along = np.abs(directions @ row_target)
    column_axis, row_axis = (2, 1) if along[2] >= along[1] else (1, 2)
    flip_columns = bool(directions[column_axis] @ row_target < 0)
    flip_rows = bool(directions[row_axis] @ column_target < 0)
    row_direction = directions[column_axis] * (-1 if flip_columns else 1)
    column_direction = directions[row_axis] * (-1 if flip_rows else 1)
    normal = np.cross(row_direction, column_direction)
    flip_slices = bool(directions[0] @ normal < 0)

    axes = (0, row_axis, column_axis)
    flips = (flip_slices, flip_rows, flip_columns)
    corner = np.zeros(3)
    for axis, flip in zip(axes, flips, strict=True):
        corner[2 - axis] = geometry.matrix[axis] - 1 if flip else 0
    first = affine[:3, :3] @ corner + affine[:3, 3]
    steps = np.arange(geometry.matrix[0])[:, np.newaxis]
    return SliceStack(
        axes=axes,
        flips=flips,
        orientation=(*row_direction.tolist(), *column_direction.tolist()),
        positions=first + steps * normal * spacing[0],
        pixel_spacing=(float(spacing[row_axis]), float(spacing[column_axis])),
        slice_spacing=float(spacing[0]),
    )
