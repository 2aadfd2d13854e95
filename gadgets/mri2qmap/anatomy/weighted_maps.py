"""Quantitative maps made from weighted images of a head: real texture, invented times.

Nobody's T1 and T2 are measured this way. The intensities of a T1-weighted image are mapped
monotonically to log T1, so that the peaks of white matter, grey matter and fluid get the values of
these tissues; those of a T2-weighted image likewise to log T2. What remains is the structure of a
real head: gyri, vessels, lesions, texture and also the noise of the image, which becomes truth.
"""

from __future__ import annotations

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

TISSUES = (WHITE_MATTER, GREY_MATTER, CSF)
SHORTEST_T1, SHORTEST_T2 = 0.4, 0.03
"""Times of the brightest T1-weighted and the darkest T2-weighted voxels [s]."""
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
        voxels nearer to the peak of this tissue than to the others.

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
    fluid, grey, white = tissue_peaks(image[brain], t1w)
    log_t1 = _monotone(
        image, [(white, WHITE_MATTER.t1), (grey, GREY_MATTER.t1), (fluid, CSF.t1)], SHORTEST_T1
    )
    known = np.log([tissue.t1 for tissue in TISSUES])
    if t2w is None:
        log_t2 = np.interp(log_t1, known, np.log([tissue.t2 for tissue in TISSUES]))
    else:
        second = _volume(_on_grid(load_nifti(t2w), first), t2w)
        # The peaks of the second image are those of the voxels of the tissues of the first.
        peaks = [
            float(np.median(second[brain & (np.abs(log_t1 - centre) < 0.1)])) for centre in known
        ]
        if not peaks[0] < peaks[1] < peaks[2]:
            raise Mri2QmapError(
                f"anatomy {t2w}: white matter, grey matter and fluid have the intensities "
                f"{', '.join(f'{peak:.3g}' for peak in peaks)}; in a T2-weighted image they rise"
            )
        times = [tissue.t2 for tissue in TISSUES]
        log_t2 = _monotone(
            -second, [(-p, t) for p, t in zip(peaks, times, strict=True)], SHORTEST_T2
        )
    density = np.interp(log_t1, known, [tissue.proton_density for tissue in TISSUES]) * brain
    borders = (known[:-1] + known[1:]) / 2
    is_white = (log_t1 < borders[0]) & brain
    is_grey = (log_t1 >= borders[0]) & (log_t1 < borders[1]) & brain
    # Single voxels and thin mixtures at borders belong to neither.
    is_white, is_grey = (ndimage.binary_opening(mask) for mask in (is_white, is_grey))
    return QuantitativeMaps(
        nifti_stem(t1w),
        np.exp(log_t1).astype(np.float32),
        np.minimum(np.exp(log_t2), np.exp(log_t1)).astype(np.float32),
        density.astype(np.float32),
        ndimage.binary_fill_holes(brain),
        is_white,
        is_grey,
        np.asarray(first.affine, dtype=np.float64),
    )


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


def _monotone(
    image: NDArray[np.float32], points: list[tuple[float, float]], shortest: float
) -> NDArray[np.float64]:
    """Map intensities, brightest first in `points`, monotonically to the logarithm of times."""
    intensities, times = zip(*reversed(points), strict=True)  # rising intensity, falling time
    slope = (np.log(times[-2]) - np.log(times[-1])) / (intensities[-1] - intensities[-2])
    brightest = intensities[-1] + (np.log(times[-1]) - np.log(shortest)) / slope
    x, y = [*intensities, brightest], [*np.log(times), np.log(shortest)]
    curve = PchipInterpolator(x, y)
    return np.asarray(curve(np.clip(image, x[0], x[-1])))


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
