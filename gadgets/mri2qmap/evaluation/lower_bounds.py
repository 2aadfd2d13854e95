"""The errors that remain when the reconstruction is perfect.

The first is that of matching itself: one compartment cannot fit voxels of mixed tissue. The second
adds the resolution: spiral projections fill a sphere in k-space, and what lies in the corners of
the cube is not measured.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.matching import match


def within_sampled_sphere(tsmi: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Images (..., z, y, x) kept to spatial frequencies of at most 0.5 cycles/voxel."""
    z, y, x = (np.fft.fftfreq(n) for n in tsmi.shape[-3:])
    inside = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= 0.25
    axes = (-3, -2, -1)
    return np.asarray(np.fft.ifftn(np.fft.fftn(tsmi, axes=axes) * inside, axes=axes), np.complex64)


def match_voxels(
    tsmi: NDArray[np.complex64], mask: NDArray[np.bool_], dictionary: Dictionary
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """T1 and T2 maps [s] (z, y, x) of the voxels in a mask, matched; 0 elsewhere."""
    t1, t2 = np.zeros((2, *mask.shape), dtype=np.float32)
    if mask.any():
        voxels = np.ascontiguousarray(tsmi[:, mask])[:, None, None]
        found = match(torch.from_numpy(voxels), dictionary.select(torch.from_numpy(mask)))
        t1[mask], t2[mask] = found.t1.numpy().ravel(), found.t2.numpy().ravel()
    return t1, t2
