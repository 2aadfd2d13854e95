"""Intensity and noise level of a TSMI: the units of the strengths of regularisers."""

from __future__ import annotations

import math

import torch

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
    total = float(energy.sum())
    if total == 0:
        raise ValueError("initial_tsmi is zero everywhere")
    return float((magnitude * energy).sum()) / total


def relative_noise(tsmi: torch.Tensor) -> float:
    """Standard deviation of the noise of a coefficient of a TSMI, relative to its intensity.

    The estimate uses the finest details, differences between neighbours along all three axes:
    they contain little of an object, but the same share of white noise as other details. The
    median of their magnitude over the coefficients is robust to borders. It includes errors of
    undersampling, which a regulariser must suppress like noise. Blocks that are zero, for example
    outside of coil maps, are excluded.

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

    References
    ----------
    Donoho and Johnstone, Biometrika 81:425 (1994), section 3: the noise level from the median of
    the finest wavelet coefficients.
    """
    brightness = intensity(tsmi)
    details = tsmi
    for axis in (-3, -2, -1):
        even_size = details.narrow(axis, 0, details.shape[axis] // 2 * 2)
        first, second = torch.unflatten(even_size, axis, (-1, 2)).unbind(axis)
        details = (first - second) / math.sqrt(2)
    magnitude = torch.linalg.vector_norm(details, dim=0)
    magnitude = magnitude[magnitude > 0]
    if not magnitude.numel():
        return _MINIMUM
    # |e|^2 over s coefficients of variance 1 is of the gamma distribution with shape s, whose
    # median is near s - 1/3.
    noise = float(magnitude.median()) / math.sqrt(len(tsmi) - 1 / 3)
    return max(noise / brightness, _MINIMUM)
