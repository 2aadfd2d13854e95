"""Brightness and noise of a TSMI: the units in which the strengths of priors are given."""

from __future__ import annotations

import math

import torch

_LEAST = 1e-4
"""Relative noise that single precision and a few steps of conjugate gradients leave anyway."""


def intensity(tsmi: torch.Tensor) -> float:
    """Mean magnitude of the voxels of a TSMI, weighted by their energy: air hardly counts.

    Parameters
    ----------
    tsmi
        X (s, z, y, x).

    Raises
    ------
    ValueError
        If it is zero everywhere, which leaves a strength without a unit.
    """
    magnitude = torch.linalg.vector_norm(tsmi, dim=0).double()
    energy = magnitude.square()
    total = float(energy.sum())
    if total == 0:
        raise ValueError("initial_tsmi is zero everywhere")
    return float((magnitude * energy).sum()) / total


def relative_noise(tsmi: torch.Tensor) -> float:
    """Standard deviation of the noise of a coefficient of a TSMI, relative to its intensity.

    Noise is what the finest details hold, differences between neighbours along all three axes:
    little of an object, but of white noise as much as any other part. Of their magnitude over the
    coefficients the median counts, which borders hardly move. Errors of undersampling count as
    noise, and should: for a prior they are. Blocks that are zero, as outside of coil maps, do not
    count.

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
        pairs = details.narrow(axis, 0, details.shape[axis] // 2 * 2).unflatten(axis, (-1, 2))
        first, second = pairs.unbind(axis)
        details = (first - second) / math.sqrt(2)
    magnitude = torch.linalg.vector_norm(details, dim=0)
    magnitude = magnitude[magnitude > 0]
    if not magnitude.numel():
        return _LEAST
    # |e|^2 over s coefficients of variance 1 is of the gamma distribution with shape s, whose
    # median is near s - 1/3.
    noise = float(magnitude.median()) / math.sqrt(len(tsmi) - 1 / 3)
    return max(noise / brightness, _LEAST)
