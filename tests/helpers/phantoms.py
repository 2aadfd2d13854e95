"""Tiny anatomies with an unambiguous orientation."""

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

WHITE, GREY, FLUID, SKIN, BONE = 2, 3, 24, 511, 515
STEP_MM = 10.0


def labels_ras() -> NDArray[np.int32]:
    """Head of 20 x 24 x 18 voxels of 10 mm with axes right, anterior, superior.

    White matter fills the brain but for grey matter on the right, fluid in front and a block of
    vessel (30) on top; bone and skin lie around it.
    """
    labels = np.zeros((20, 24, 18), dtype=np.int32)
    labels[2:18, 2:22, 1:17] = SKIN
    labels[3:17, 3:21, 2:16] = BONE
    labels[4:16, 4:20, 3:15] = WHITE
    labels[12:16, 4:20, 3:15] = GREY
    labels[4:12, 16:20, 3:15] = FLUID
    labels[6:9, 8:12, 12:15] = 30
    return labels


def affine_ras() -> NDArray[np.float64]:
    """The centre of the brain's bounding box is at 12, -20 and 34 mm."""
    affine = np.diag([STEP_MM, STEP_MM, STEP_MM, 1.0])
    affine[:3, 3] = np.array([12.0, -20.0, 34.0]) - STEP_MM * np.array([9.5, 11.5, 8.5])
    return affine


def write_labels(path: Path, axes: str = "RAS") -> Path:
    """Write the label map with array axes in the given directions."""
    image = nib.Nifti1Image(labels_ras(), affine_ras())
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(image.as_reoriented(turn), path)
    return path


def write_ball(path: Path, extent_mm: float = 128.0) -> Path:
    """Write a label map of 64^3 voxels: a ball of white matter with a grey half."""
    z, y, x = np.mgrid[-32:32, -32:32, -32:32] + 0.5
    labels = np.zeros((64, 64, 64), dtype=np.uint8)
    inside = x**2 + y**2 + z**2 < 24**2
    labels[inside] = WHITE
    labels[inside & (x > 0)] = GREY
    step = extent_mm / 64
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = -31.5 * step
    nib.save(nib.Nifti1Image(labels.transpose(2, 1, 0), affine), path)
    return path
