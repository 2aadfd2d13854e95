"""Denoising whole volumes with a network that was trained on patches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def intensity_scale(images: Tensor) -> Tensor:
    """Find the bright end of each image, which the denoiser expects at 1.

    It is the 99.5th percentile over the object, as in the paper, made robust: percentiles are
    taken of local means (3x3x3), so that single voxels of absurd proton density do not count, the
    object is what exceeds a tenth of the brightest local means, and the result is at most eight
    times the object's median.

    Parameters
    ----------
    images : Tensor
        (images, z, y, x) real; negative values are allowed.

    Returns
    -------
    Tensor
        (images,) positive scale of each image; 1 for an image that is nowhere positive.

    Raises
    ------
    ValueError
        If the shape is not (images, z, y, x) or a value is not finite.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (images, z, y, x)")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images: a value is not finite")
    kernel = [min(3, side) for side in images.shape[1:]]
    means = functional.avg_pool3d(images[:, None].float(), kernel, stride=1).flatten(1)
    return torch.stack([_bright_end(values) for values in means])


def _bright_end(values: Tensor) -> Tensor:
    top = _percentile(values, 0.999)
    if top <= 0:
        return torch.ones_like(top)
    inside = values[values > 0.1 * top]
    return torch.minimum(_percentile(inside, 0.995), 8 * _percentile(inside, 0.5))


def _percentile(values: Tensor, fraction: float) -> Tensor:
    """Order statistic of a vector; unlike torch.quantile it has no limit on the length."""
    return values.kthvalue(1 + round(fraction * (values.numel() - 1))).values
