"""What can be said about images with white noise without any training."""

from __future__ import annotations

from torch import Tensor

from mri2qmap.denoiser.block_transform import denoise_by_block_transform
from mri2qmap.denoiser.nonlocal_means import average_similar_voxels


def first_estimates(noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Denoise images of an object in two ways whose errors differ.

    Their mean is better than either: the first keeps detail and some noise, the second averages
    over all that is alike nearby.

    Parameters
    ----------
    noisy : Tensor
        (batch, images, z, y, x) float32 with sides that are multiples of 8.
    sigma : Tensor
        (batch,) standard deviation of the white noise.

    Returns
    -------
    local, averaged : Tensor
        (batch, images, z, y, x) from shrunk coefficients of small cubes, and from non-local means
        guided by that.

    Raises
    ------
    ValueError
        If a side is not a multiple of 8.
    """
    local = denoise_by_block_transform(noisy, sigma)
    return local, average_similar_voxels(noisy, local, sigma)
