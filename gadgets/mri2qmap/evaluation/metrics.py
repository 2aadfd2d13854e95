"""Errors of maps and images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

AXIAL_SLICES_OF_PAPER = 50
MATRIX_OF_PAPER = 224
"""Slices of the paper's image quality, and its matrix along z."""
AIR_DENSITY = 0.1
"""Proton density, relative to its 99th percentile, up to which a voxel counts as air."""
OBJECT = 0.02
"""Intensity above which a voxel belongs to the object, for images of intensity scale 1."""


def mape(
    estimate: NDArray[np.floating], reference: NDArray[np.floating], mask: NDArray[np.bool_]
) -> float:
    """Mean absolute percentage error |estimate - reference| / reference over a mask [%].

    NaN for an empty mask.
    """
    if not mask.any():
        return float("nan")
    true = reference[mask].astype(np.float64)
    return float(100 * np.mean(np.abs(estimate[mask] - true) / true))


def cosine_distance(
    estimate: NDArray[np.inexact],
    reference: NDArray[np.inexact],
    mask: NDArray[np.bool_],
) -> float:
    """Mean over the voxels of a mask of 1 - |<x, y>| / (|x| |y|) [%].

    The product runs over subspace coefficients. A voxel whose estimate is zero counts as 100 %.

    Parameters
    ----------
    estimate, reference
        TSMI (s, z, y, x).
    mask
        (z, y, x).

    Returns
    -------
        NaN for an empty mask.
    """
    if not mask.any():
        return float("nan")
    x = estimate[:, mask].astype(np.complex128)
    y = reference[:, mask].astype(np.complex128)
    norms = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    products = np.abs((x.conj() * y).sum(0))
    cosines = np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)
    return float(100 * np.mean(1 - cosines))


def central_slices(matrix: tuple[int, int, int]) -> slice:
    """Central axial slices: 50 of 224 in the paper, here the same fraction of the slices."""
    count = max(1, round(AXIAL_SLICES_OF_PAPER / MATRIX_OF_PAPER * matrix[0]))
    start = (matrix[0] - count) // 2
    return slice(start, start + count)


def air_mask(density: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Voxels that are not air, by proton density (z, y, x)."""
    return np.asarray(density > AIR_DENSITY * np.percentile(density, 99))


def psnr_ssim(
    estimate: NDArray[np.floating],
    reference: NDArray[np.floating],
    mask: NDArray[np.bool_],
) -> tuple[float, float]:
    """PSNR [dB] and SSIM [%], means over the central axial slices.

    Air is zero in both images and excluded from both means, so that the result does not depend on
    its volume. The peak is the largest reference value in these slices.

    Parameters
    ----------
    estimate, reference
        Magnitude images (z, y, x) on the same scale.
    mask
        Voxels that are not air (z, y, x).

    Returns
    -------
        PSNR and SSIM; NaN if all these slices are empty.
    """
    chosen = central_slices((mask.shape[0], mask.shape[1], mask.shape[2]))
    inside = mask[chosen]
    true = np.where(inside, reference[chosen], 0).astype(np.float64)
    found = np.where(inside, estimate[chosen], 0).astype(np.float64)
    peak = float(true.max())
    psnr, ssim = [], []
    for a, b, m in zip(found, true, inside, strict=True):
        if not m.any() or peak == 0:
            continue
        error = float(np.mean((a - b)[m] ** 2))
        psnr.append(10 * np.log10(peak**2 / error) if error > 0 else np.inf)
        window = min(7, *(n - 1 + n % 2 for n in a.shape))
        _, similarity = structural_similarity(a, b, data_range=peak, win_size=window, full=True)
        ssim.append(100 * float(similarity[m].mean()))
    if not psnr:
        return float("nan"), float("nan")
    return float(np.mean(psnr)), float(np.mean(ssim))


def intensity_scale(
    estimate: NDArray[np.floating], reference: NDArray[np.floating], mask: NDArray[np.bool_]
) -> float:
    """Real factor that scales an estimate to the reference over a mask.

    It is the median of the ratio, which is robust to single voxels of extreme proton density; 0 if
    the estimate is empty.
    """
    usable = mask & (estimate > 0)
    return float(np.median(reference[usable] / estimate[usable])) if usable.any() else 0.0


def masked_psnr(restored: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio over the object.

    Parameters
    ----------
    restored, truth : Tensor
        Real, of the same shape, scaled to a truth of intensity scale 1. The volumes of a tensor are
        evaluated together, by their mean squared error.

    Returns
    -------
    float
        PSNR [dB] for a peak of 1, over the voxels whose truth exceeds :data:`OBJECT`; NaN if there
        are none, infinite if there is no error.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if restored.shape != truth.shape:
        raise ValueError(
            f"shape of the restored images {tuple(restored.shape)}, of their truth "
            f"{tuple(truth.shape)}; they must be equal"
        )
    error = float((restored - truth)[truth > OBJECT].square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
