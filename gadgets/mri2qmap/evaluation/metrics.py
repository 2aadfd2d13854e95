"""Errors of maps and images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

AXIAL_SLICES_OF_PAPER = 50
MATRIX_OF_PAPER = 224
"""Slices of the paper's image quality, and its matrix along z."""
AIR_DENSITY = 0.1
"""Proton density, relative to its 99th percentile, up to which a voxel counts as air."""
OBJECT = 0.02
"""Intensity above which a voxel belongs to the object, for images of intensity scale 1."""
_LIMITS_SD = 1.96
_NO_SPREAD = 1e-6


class Agreement(NamedTuple):
    """Bias and spread of the difference (estimate - truth) / truth, see `agreement`.

    Attributes
    ----------
    bias
        Mean difference [%].
    limits
        Half the distance of the limits of agreement, 1.96 standard deviations [%]: 95 % of normally
        distributed differences lie within bias - limits to bias + limits.
    correlation_mean
        Correlation of the difference with the mean of estimate and truth. Noise of the estimate
        alone makes it positive, since it is in both.
    correlation_truth
        Correlation of the difference with the truth, which has no noise: negative if high values
        are underestimated more than low ones.
    """

    bias: float
    limits: float
    correlation_mean: float
    correlation_truth: float


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


def agreement(
    estimate: NDArray[np.floating], reference: NDArray[np.floating], mask: NDArray[np.bool_]
) -> Agreement:
    """Bias and limits of agreement of the relative difference over a mask.

    Bland and Altman, Lancet 327:307, 1986. Differences are relative to the truth, as in `mape`. For
    a reference that is exact, the correlation with the reference is the meaningful one (Krouwer,
    Stat Med 27:778, 2008).

    Parameters
    ----------
    estimate, reference, mask
        (z, y, x); the reference is positive in the mask.

    Returns
    -------
        NaN for an empty mask; correlations also without spread of one of the two.
    """
    if not mask.any():
        return Agreement(*[float("nan")] * 4)
    found, true = estimate[mask].astype(np.float64), reference[mask].astype(np.float64)
    difference = 100 * (found - true) / true
    return Agreement(
        float(difference.mean()),
        float(_LIMITS_SD * difference.std()),
        _correlation(difference, (found + true) / 2),
        _correlation(difference, true),
    )


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
        similarity = structural_similarity(a, b, peak, window)
        ssim.append(100 * float(similarity[m].mean()))
    if not psnr:
        return float("nan"), float("nan")
    return float(np.mean(psnr)), float(np.mean(ssim))


def structural_similarity(
    first: NDArray[np.float64], second: NDArray[np.float64], data_range: float, window: int
) -> NDArray[np.float64]:
    """Structural similarity (SSIM) in each pixel of two images.

    Wang et al., IEEE Trans Image Process 13:600, 2004, with square windows of equal weights, sample
    covariances, K1 = 0.01 and K2 = 0.03; the same numbers as scikit-image's function of this name.

    Parameters
    ----------
    first, second
        Images (rows, columns) on the same scale.
    data_range
        Range of values that the images can have.
    window
        Side of the window, an odd number of pixels, at least 3.

    Returns
    -------
        (rows, columns), 1 where the images are equal within the window.
    """
    from scipy.ndimage import uniform_filter

    def mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(uniform_filter(image, size=window))

    count = window**2
    unbiased = count / (count - 1)
    mean_1, mean_2 = mean(first), mean(second)
    variance_1 = unbiased * (mean(first * first) - mean_1 * mean_1)
    variance_2 = unbiased * (mean(second * second) - mean_2 * mean_2)
    covariance = unbiased * (mean(first * second) - mean_1 * mean_2)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = mean_1**2 + mean_2**2 + c1
    numerator = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    return np.asarray(numerator / (luminance * (variance_1 + variance_2 + c2)))


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


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    deviations = first.std(), second.std()
    if deviations[0] < 100 * _NO_SPREAD or deviations[1] < _NO_SPREAD * abs(second.mean()):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
