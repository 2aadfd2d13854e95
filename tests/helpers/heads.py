"""Files with label maps of small heads."""

from pathlib import Path

import nibabel as nib
import numpy as np

SKIN, BONE, FLUID, GREY, WHITE, VENTRICLE = 511, 516, 24, 3, 2, 4


def write_heads(folder: Path, *names: str) -> Path:
    """Write a label map of nested ellipsoids for each name, 40 voxels of 1 mm a side."""
    grid = np.stack(np.meshgrid(*(np.arange(40) - 19.5,) * 3, indexing="ij"))
    for number, name in enumerate(names):
        axes = np.array([1, 0.9 - 0.05 * number, 0.85])[:, None, None, None]
        radius = np.sqrt(np.sum((grid / axes) ** 2, axis=0))
        labels = np.zeros(radius.shape, np.int16)
        for limit, label in (
            (19, SKIN), (17, BONE), (16, FLUID), (15, GREY), (10, WHITE), (4, VENTRICLE),
        ):  # fmt: skip
            labels[radius < limit] = label
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"{name}.nii.gz")
    return folder
