"""What can be said about images with white noise without any training."""

from __future__ import annotations

from torch import Tensor

from mri2qmap.denoiser.dct_wiener import dct_wiener_filter
from mri2qmap.denoiser.nonlocal_means import nonlocal_means
from mri2qmap.denoiser.nonlocal_wiener import nonlocal_wiener_filter


def classical_prefilter(noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Denoise images of an object in two ways whose errors differ.

    The second is better nearly everywhere; the first, which looks at no other place, keeps what
    occurs only once.

    Parameters
    ----------
    noisy : Tensor
        (batch, images, z, y, x) float32 with sides that are multiples of 8.
    sigma : Tensor
        (batch,) standard deviation of the white noise.

    Returns
    -------
    local, grouped : Tensor
        (batch, images, z, y, x) from shrunk coefficients of single cubes; and from groups of
        similar ones. These are found twice: guided by the mean of the first estimate and of the
        non-local means that it guides; and, for cubes of two sizes, by the result.

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
