"""Label maps of whole heads: reading, and averaging of tables over their structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mri2qmap.anatomy.label_tissues import FIRST_OUTSIDE
from mri2qmap.anatomy.nifti_files import NIFTI_ERRORS, nifti_files, nifti_stem
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.compiled_loops import compiled


@dataclass(frozen=True)
class LabelMap:
    """Label map of one head, cropped to its labels.

    Attributes
    ----------
    indices : (z, y, x) uint8
        Index into ``labels`` of each voxel.
    labels : tuple of int
        FreeSurfer label of each index; index 0 is the background.
    voxel_size : (float, float, float)
        Voxel size (z, y, x) [mm].
    brain_centre, brain_extent : (float, float, float)
        Centre and extent of the bounding box of all labels below 500 (z, y, x) [voxels].
    """

    indices: NDArray[np.uint8]
    labels: tuple[int, ...]
    voxel_size: tuple[float, float, float]
    brain_centre: tuple[float, float, float]
    brain_extent: tuple[float, float, float]


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Return the label maps of a folder: file name without ``.nii.gz`` or ``.nii`` -> file.

    Raises
    ------
    Mri2QmapError
        If the folder does not exist or contains no label map.
    """
    return {nifti_stem(path): path for path in nifti_files(folder, "label maps")}


def label_maps_of(folder: Path, subjects: Sequence[str]) -> dict[str, Path]:
    """Return the label maps of the named subjects, in the given order: subject -> file.

    Raises
    ------
    Mri2QmapError
        If the folder contains no label maps, or a subject is missing.
    """
    found = find_label_maps(folder)
    if missing := [name for name in subjects if name not in found]:
        raise Mri2QmapError(
            f"--subjects {' '.join(missing)}: not in {folder}; available:"
            f" {', '.join(sorted(found))}"
        )
    return {name: found[name] for name in subjects}


def load_label_map(path: Path) -> LabelMap:
    """Read a NIfTI label map, crop it to its labels and map the labels to consecutive indices.

    Raises
    ------
    Mri2QmapError
        If the file is not a 3-D NIfTI volume of whole numbers, or contains no label of the brain.
    """
    try:
        image = nib.Nifti1Image.from_filename(path)
        values = np.asarray(image.dataobj)
    except NIFTI_ERRORS as error:
        raise Mri2QmapError(f"label map {path}: cannot be read as NIfTI ({error})") from error
    if values.ndim != 3 or not np.array_equal(values, np.rint(values)) or not values.any():
        raise Mri2QmapError(
            f"label map {path}: expected a 3-D volume of whole numbers, not all zero, got shape"
            f" {values.shape}, type {values.dtype}"
        )
    values = values.astype(np.int32)
    for axis in range(3):
        first, last = _used(values, axis)
        values = np.take(values, np.arange(first, last + 1), axis=axis)
    labels = np.union1d([0], values)
    if len(labels) > 255:
        raise Mri2QmapError(
            f"label map {path}: it has {len(labels)} labels; at most 255 are supported"
        )
    indices = np.searchsorted(labels, values).astype(np.uint8).transpose(2, 1, 0)
    header: Any = image.header
    sizes = tuple(float(size) for size in header.get_zooms()[:3])
    inside = (labels[indices] > 0) & (labels[indices] < FIRST_OUTSIDE)
    if not inside.any():
        raise Mri2QmapError(f"label map {path}: no label of the brain (1 to {FIRST_OUTSIDE - 1})")
    (z0, z1), (y0, y1), (x0, x1) = (_used(inside, axis) for axis in range(3))
    return LabelMap(
        np.ascontiguousarray(indices),
        tuple(int(label) for label in labels),
        (sizes[2], sizes[1], sizes[0]),
        ((z0 + z1) / 2, (y0 + y1) / 2, (x0 + x1) / 2),
        (z1 - z0 + 1.0, y1 - y0 + 1.0, x1 - x0 + 1.0),
    )


def _used(values: NDArray[np.generic], axis: int) -> tuple[int, int]:
    """Return first and last index along an axis with nonzero values."""
    used = np.flatnonzero(values.any(axis=tuple(a for a in range(3) if a != axis)))
    return int(used[0]), int(used[-1])


@compiled(boundscheck=False, nogil=True)
def average_table(
    indices: NDArray[np.uint8],
    table: NDArray[np.float32],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    size: int,
    samples: int,
) -> NDArray[np.float32]:
    """Average a table over the structures in each voxel of a rotated grid.

    Parameters
    ----------
    indices : ndarray
        (z, y, x) uint8 table row of each voxel of the label map.
    table : ndarray
        (rows, columns) float32.
    matrix, offset : ndarray
        (3, 3) and (3,): affine from voxel coordinates of the grid to those of the label map (z, y,
        x).
    size : int
        Voxels along each side of the grid.
    samples : int
        Sampling points along each side of a grid voxel.

    Returns
    -------
    ndarray
        (size, size, size, columns) float32; points outside the label map count as zero.
    """
    columns = table.shape[1]
    out = np.zeros((size, size, size, columns), np.float32)
    nz, ny, nx = indices.shape
    step = 1.0 / samples
    for z in range(size):
        for y in range(size):
            for x in range(size):
                for a in range(samples):
                    gz = z + (a + 0.5) * step - 0.5
                    for b in range(samples):
                        gy = y + (b + 0.5) * step - 0.5
                        for c in range(samples):
                            gx = x + (c + 0.5) * step - 0.5
                            lz = matrix[0, 0] * gz + matrix[0, 1] * gy + matrix[0, 2] * gx
                            ly = matrix[1, 0] * gz + matrix[1, 1] * gy + matrix[1, 2] * gx
                            lx = matrix[2, 0] * gz + matrix[2, 1] * gy + matrix[2, 2] * gx
                            iz = int(np.floor(lz + offset[0] + 0.5))
                            iy = int(np.floor(ly + offset[1] + 0.5))
                            ix = int(np.floor(lx + offset[2] + 0.5))
                            if 0 <= iz < nz and 0 <= iy < ny and 0 <= ix < nx:
                                row = indices[iz, iy, ix]
                                for q in range(columns):
                                    out[z, y, x, q] += table[row, q]
    return out / np.float32(samples**3)
