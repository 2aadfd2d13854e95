"""Intensity and noise level of a TSMI: the units of the strengths of regularisers."""

from __future__ import annotations

import math

import torch

from mri2qmap.recon.inner_products import fetched

_MINIMUM = 1e-4
"""Lower bound of the relative noise: errors of single precision and of a few steps of conjugate
gradients."""


def intensity(tsmi: torch.Tensor) -> float:
    """Mean magnitude of the voxels of a TSMI, weighted by their energy, which suppresses air.

    Parameters
    ----------
    tsmi
        X (s, z, y, x).

    Raises
    ------
    ValueError
        If it is zero everywhere, so that there is no unit for a strength.
    """
    magnitude = torch.linalg.vector_norm(tsmi, dim=0).double()
    energy = magnitude.square()
    total, weighted = fetched(energy.sum(), (magnitude * energy).sum())
    if total == 0:
        raise ValueError("initial_tsmi is zero everywhere")
    return weighted / total


def relative_noise(tsmi: torch.Tensor) -> float:
    """Standard deviation of the noise of a coefficient of a TSMI, relative to its intensity.

    See `noise_deviation`. It includes errors of undersampling, which a regulariser must suppress
    like noise.

    Parameters
    ----------
    tsmi
        X (s, z, y, x).

    Returns
    -------
        At least 1e-4.

    Raises
    ------
    ValueError
        If the TSMI is zero everywhere.
    """
    return max(noise_deviation(tsmi) / intensity(tsmi), _MINIMUM)


def noise_deviation(images: torch.Tensor) -> float:
    """Standard deviation of the noise in coefficient images (s, z, y, x).

    The estimate uses the finest details, differences between neighbours along all three axes:
    they contain little of an object, but the same share of white noise as other details. The
    median of their magnitude over the coefficients is robust to borders. Blocks that are zero, for
    example outside of coil maps, are excluded; 0 if all are.

    Parameters
    ----------
    images
        Images of s coefficients (s, z, y, x), such as X0 or A^H Y.

    References
    ----------
    Donoho and Johnstone, Biometrika 81:425 (1994), section 3: the noise level from the median of
    the finest wavelet coefficients.
    """
    details = images
    for axis in (-3, -2, -1):
        even_size = details.narrow(axis, 0, details.shape[axis] // 2 * 2)
        first, second = torch.unflatten(even_size, axis, (-1, 2)).unbind(axis)
        details = (first - second) / math.sqrt(2)
    magnitude = torch.linalg.vector_norm(details, dim=0)
    magnitude = magnitude[magnitude > 0]
    if not magnitude.numel():
        return 0.0
    # |e|^2 over s coefficients of variance 1 is of the gamma distribution with shape s, whose
    # median is near s - 1/3.
    return float(magnitude.median()) / math.sqrt(len(images) - 1 / 3)


def strength_unit(adjoint_tsmi: torch.Tensor, initial_tsmi: torch.Tensor) -> float:
    r"""Unit of the strength of a regulariser, so that one strength suits all scans.

    .. math:: n \nu^{1/3}

    with the `noise_deviation` n of A^H Y and the `relative_noise` nu of X0. At the true X, n is the
    gradient of the data term, against which the regulariser has to hold. With fewer samples n is
    smaller, as it should be, while nu hardly changes: frequencies without samples are zero in X0.
    The power of nu was found by experiment: the best strength grows a little faster than n.

    Parameters
    ----------
    adjoint_tsmi, initial_tsmi
        A^H Y and X0 (s, z, y, x).

    Raises
    ------
    ValueError
        If X0 is zero everywhere.
    """
    return noise_deviation(adjoint_tsmi) * math.cbrt(relative_noise(initial_tsmi))
