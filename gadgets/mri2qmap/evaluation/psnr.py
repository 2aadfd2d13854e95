"""The figure of merit of a denoiser."""

from __future__ import annotations

import math

from torch import Tensor

#: Intensity, of images whose bright end is 1, above which a voxel belongs to the object.
OBJECT = 0.02


def masked_psnr(restored: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio over the object.

    Parameters
    ----------
    restored, truth : Tensor
        Real, of one shape, scaled so that the bright end of the truth is 1. Several volumes in one
        tensor count together, by their mean squared error.

    Returns
    -------
    float
        PSNR [dB] for a peak of 1, over the voxels whose truth exceeds :data:`OBJECT`; NaN where
        there are none, infinite where there is no error.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored images {tuple(restored.shape)}, their truth {tuple(truth.shape)}"
        )
    error = float((restored - truth)[truth > OBJECT].square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
