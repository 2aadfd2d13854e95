"""Classical pre-filter: two training-free estimates of images with white noise."""

from __future__ import annotations

from torch import Tensor

from mri2qmap.denoiser.dct_wiener import dct_wiener_filter
from mri2qmap.denoiser.nonlocal_means import nonlocal_means
from mri2qmap.denoiser.nonlocal_wiener import nonlocal_wiener_filter


def classical_prefilter(noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Denoise images of an object in two ways with different errors.

    The non-local estimate is more accurate almost everywhere. The local estimate, which uses no
    other location, preserves structures that occur only once.

    Parameters
    ----------
    noisy : Tensor
        (batch, images, z, y, x) float32 with sides that are multiples of 8.
    sigma : Tensor
        (batch,) standard deviation of the white noise.

    Returns
    -------
    local, non_local : Tensor
        (batch, images, z, y, x): the DCT Wiener filter; and the mean of non-local Wiener filters
        with cubes of 2 and 4 voxels. The guide of the latter is a non-local Wiener filter with
        cubes of 4 voxels, guided in turn by the mean of the local estimate and of the non-local
        means based on it.

    Raises
    ------
    ValueError
        If a side is not a multiple of 8.
    """
    local = dct_wiener_filter(noisy, sigma)
    averaged = nonlocal_means(noisy, local, sigma)
    guide = nonlocal_wiener_filter(noisy, (local + averaged) / 2, sigma, edge=4)
    fine, wide = (nonlocal_wiener_filter(noisy, guide, sigma, edge, stride=2) for edge in (2, 4))
    return local, (fine + wide) / 2
