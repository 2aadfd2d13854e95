"""Quantitative maps made from weighted images of a head: real texture, invented times.

Nobody's T1 and T2 are measured this way. The intensities of a T1-weighted image are mapped
monotonically to 1/T1, so that the peaks of white matter, grey matter and fluid get the values of
these tissues; those of a T2-weighted image likewise to 1/T2. Rates are nearly linear in intensity,
and a mixture of two tissues gets the mean rate. What remains is the structure of a real head: gyri,
vessels, lesions and texture, and also a part of the noise of the images, which becomes truth.
Little of it should: the T1-weighted image is smoothed by less than a voxel. White and grey matter
differ little in T2-weighted images, so noise would become a large variation of T2, but a smoothed
image would have borders of T2 beside those of T1. The guided filter (`guided_filter`) removes noise
from the T2-weighted image, with the T1-weighted one as its guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import processing
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from mri2qmap.anatomy.fraction_maps import load_nifti
from mri2qmap.anatomy.nifti_files import nifti_stem
from mri2qmap.anatomy.quantitative_maps import QuantitativeMaps
from mri2qmap.anatomy.tissues import CSF, GREY_MATTER, WHITE_MATTER
from mri2qmap.errors import Mri2QmapError

TISSUES = (CSF, GREY_MATTER, WHITE_MATTER)
SHORTEST_T1, SHORTEST_T2, LONGEST_T1, LONGEST_T2 = 0.4, 0.03, 4.5, 2.2
"""Limits of the times [s]."""
SMOOTHING_MM = 0.5
"""Standard deviation of the Gaussian by which the T1-weighted image is smoothed [mm]."""
WINDOW_MM = 5.0
"""Edge of the windows of the guided filter [mm]."""
GUIDE_NOISE = 0.02
"""Standard deviation of the guide in a window at which the image follows it by half, relative to
the intensity of white matter."""
_CLASSES = 3
_ROUNDS = 100


def weighted_maps(t1w: Path, t2w: Path | None = None) -> QuantitativeMaps:
    """Make quantitative maps from a T1-weighted and, if there is one, a T2-weighted image.

    Parameters
    ----------
    t1w
        NIfTI volume without skull: zero outside the brain.
    t2w
        NIfTI volume of the same head, resampled to the grid of the first if need be; None: T2
        follows from T1, along the line through the three tissues.

    Returns
    -------
        Proton density rises with T1 from white matter to fluid. White and grey matter are the
        voxels with a T1 near the peak of the tissue.

    Raises
    ------
    Mri2QmapError
        If an image cannot be read, is not skull-stripped, or does not show three tissues.
    """
    first = load_nifti(t1w)
    image = _volume(first, t1w)
    brain = image > 0
    if not 0.02 < brain.mean() < 0.7:
        raise Mri2QmapError(
            f"anatomy {t1w}: {100 * brain.mean():.0f} % of its voxels are not zero; an image of a "
            "brain without its skull is expected, zero outside"
        )
    edges = np.linalg.norm(first.affine[:3, :3], axis=0)
    intensities = tissue_peaks(image[brain], t1w)
    image = _smoothed(image, brain, SMOOTHING_MM / edges)
    t1 = 1 / _rates(image, intensities, [t.t1 for t in TISSUES], (SHORTEST_T1, LONGEST_T1))
    log_t1, known = np.log(t1), np.log([tissue.t1 for tissue in TISSUES])
    times = [tissue.t2 for tissue in TISSUES]
    if t2w is None:
        t2 = np.exp(np.interp(-log_t1, -known, np.log(times)))
    else:
        second = _volume(_on_grid(load_nifti(t2w), first), t2w)
        window = np.maximum(1, 2 * np.rint((WINDOW_MM / edges - 1) / 2).astype(int) + 1)
        second = guided_filter(second, image, brain, window, GUIDE_NOISE * intensities[-1])
        # The peaks of the second image are those of the voxels of the tissues of the first.
        peaks = [
            float(np.median(second[brain & (np.abs(log_t1 - centre) < 0.1)])) for centre in known
        ]
        if not peaks[0] > peaks[1] > peaks[2]:
            raise Mri2QmapError(
                f"anatomy {t2w}: fluid, grey and white matter have the intensities "
                f"{', '.join(f'{peak:.3g}' for peak in peaks)}; in a T2-weighted image they fall"
            )
        t2 = 1 / _rates(second, peaks, times, (SHORTEST_T2, LONGEST_T2))
    density = np.interp(-log_t1, -known, [tissue.proton_density for tissue in TISSUES]) * brain
    # As far from the peak of a tissue as half the distance between the peaks.
    half = (known[1] - known[2]) / 2
    is_grey, is_white = (brain & (np.abs(log_t1 - peak) < half) for peak in known[1:])
    # Single voxels and thin mixtures at borders belong to neither.
    is_white, is_grey = (ndimage.binary_opening(mask) for mask in (is_white, is_grey))
    return QuantitativeMaps(
        nifti_stem(t1w),
        t1.astype(np.float32),
        np.minimum(t1, t2).astype(np.float32),
        density.astype(np.float32),
        ndimage.binary_fill_holes(brain),
        is_white,
        is_grey,
        np.asarray(first.affine, dtype=np.float64),
    )


def guided_filter(
    image: NDArray[np.float32],
    guide: NDArray[np.float32],
    mask: NDArray[np.bool_],
    window: Sequence[int],
    guide_noise: float,
) -> NDArray[np.float32]:
    """Remove the noise of an image where another one, the guide, is smooth, and keep its borders.

    In each window, the image is fitted by a + b guide; a voxel gets the mean of the fits of the
    windows that contain it.

    Parameters
    ----------
    image, guide
        (i, j, k).
    mask
        Voxels that count (i, j, k); the others become 0.
    window
        Edges of the windows [voxels], odd.
    guide_noise
        Standard deviation of the guide at which b is half of the least-squares slope.

    References
    ----------
    He, Sun and Tang, IEEE Trans Pattern Anal 35:1397 (2013), equations 5 to 8.
    """
    share = ndimage.uniform_filter(mask.astype(np.float64), window)

    def mean(volume: NDArray[np.floating]) -> NDArray[np.float64]:
        total = ndimage.uniform_filter(np.where(mask, volume, 0).astype(np.float64), window)
        return np.asarray(total / np.maximum(share, 1e-9))

    mean_image, mean_guide = mean(image), mean(guide)
    covariance = mean(guide.astype(np.float64) * image) - mean_guide * mean_image
    variance = np.maximum(mean(guide.astype(np.float64) ** 2) - mean_guide**2, 0)
    slope = covariance / (variance + guide_noise**2)
    fitted = mean(mean_image - slope * mean_guide) + mean(slope) * guide
    return np.where(mask, fitted, 0).astype(np.float32)


def _smoothed(
    image: NDArray[np.float32], mask: NDArray[np.bool_], widths: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Image smoothed within a mask, 0 outside of it (i, j, k)."""
    share = ndimage.gaussian_filter(mask.astype(np.float32), widths)
    total = ndimage.gaussian_filter(np.where(mask, image, 0).astype(np.float32), widths)
    return np.where(mask, total / np.maximum(share, 1e-6), 0).astype(np.float32)


def tissue_peaks(
    values: NDArray[np.float32], where: Path | str = "image"
) -> tuple[float, float, float]:
    """Return the intensities of fluid, grey and white matter in a T1-weighted image.

    They are the means of a mixture of three normal distributions, fitted by expectation
    maximisation.

    Parameters
    ----------
    values
        Intensities of the voxels of the brain.
    where
        What they are of, for messages.

    Raises
    ------
    Mri2QmapError
        If the three distributions are not apart.
    """
    counts, edges = np.histogram(values, bins=256, range=(0, float(np.percentile(values, 99.9))))
    x = (edges[:-1] + edges[1:]) / 2
    means = np.array([np.percentile(values, p) for p in (8, 40, 80)])
    widths = np.full(_CLASSES, 0.1 * x[-1])
    shares = np.full(_CLASSES, 1 / _CLASSES)
    for _ in range(_ROUNDS):
        likelihood = shares * np.exp(-0.5 * ((x[:, None] - means) / widths) ** 2) / widths
        weights = likelihood / np.maximum(likelihood.sum(1, keepdims=True), 1e-300)
        weights *= counts[:, None]
        totals = np.maximum(weights.sum(0), 1e-9)
        means = (weights * x[:, None]).sum(0) / totals
        spread = (weights * (x[:, None] - means) ** 2).sum(0) / totals
        widths = np.sqrt(np.maximum(spread, (0.01 * x[-1]) ** 2))
        shares = totals / totals.sum()
    fluid, grey, white = (float(mean) for mean in means)
    if not (0 < fluid < 0.9 * grey and grey < 0.95 * white):
        raise Mri2QmapError(
            f"anatomy {where}: fluid, grey and white matter are not apart (intensities "
            f"{fluid:.3g}, {grey:.3g}, {white:.3g}); a T1-weighted image of a brain is expected"
        )
    return fluid, grey, white


def _rates(
    image: NDArray[np.float32],
    peaks: Sequence[float],
    times: Sequence[float],
    limits: tuple[float, float],
) -> NDArray[np.float64]:
    """Map intensities monotonically to rates [1/s], the peaks of the tissues to theirs."""
    points = sorted(zip(peaks, (1 / time for time in times), strict=True))
    x, y = (np.array(values) for values in zip(*points, strict=True))
    # Beyond the peaks the curve goes on as steeply as between the nearest two.
    ends = []
    for end, inner in ((0, 1), (-1, -2)):
        slope = (y[inner] - y[end]) / (x[inner] - x[end])
        limit = 1 / (limits[0] if y[end] > y[inner] else limits[1])
        ends.append((x[end] + (limit - y[end]) / slope, limit))
    curve = PchipInterpolator([ends[0][0], *x, ends[1][0]], [ends[0][1], *y, ends[1][1]])
    return np.asarray(curve(np.clip(image, ends[0][0], ends[1][0])))


def _volume(image: nib.Nifti1Image, path: Path) -> NDArray[np.float32]:
    values = np.asarray(image.dataobj, dtype=np.float32)
    if values.ndim != 3 or not np.all(np.isfinite(values)) or values.min() < 0:
        raise Mri2QmapError(f"anatomy {path}: a finite volume of three dimensions is expected")
    return values


def _on_grid(image: nib.Nifti1Image, grid: nib.Nifti1Image) -> nib.Nifti1Image:
    if image.shape == grid.shape and np.allclose(image.affine, grid.affine, atol=1e-3):
        return image
    moved: nib.Nifti1Image = processing.resample_from_to(image, grid, order=1)
    return moved
