"""Noise prewhitening and coil compression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

MOST_DETERMINED_COILS = 16
"""Maximum number of virtual coils that is determined by the energy kept."""


def noise_covariance(noise: torch.Tensor) -> torch.Tensor:
    """Covariance of noise samples (c, samples), as (c, c) complex128."""
    noise = noise.to(torch.complex128)
    noise = noise - noise.mean(1, keepdim=True)
    return noise @ noise.mH / (noise.shape[1] - 1)


def noise_statistics(covariance: torch.Tensor) -> dict[str, float]:
    """Describe the noise covariance (c, c) of coils, none of which is a combination of others.

    Returns
    -------
        ``noise_correlation_largest`` and ``noise_correlation_mean``: magnitude of the correlation
        coefficients of two coils, 0 for one coil. ``noise_deviation_ratio``: largest over smallest
        standard deviation of a coil. Empty if a coil has no noise.
    """
    deviations = covariance.diagonal().real.sqrt()
    if not bool((deviations > 0).all()):
        return {}
    count = len(deviations)
    correlation = (covariance / torch.outer(deviations, deviations)).abs().fill_diagonal_(0)
    pairs = max(1, count * (count - 1))
    return {
        "noise_correlation_largest": float(correlation.max()),
        "noise_correlation_mean": float(correlation.sum()) / pairs,
        "noise_deviation_ratio": float(deviations.max() / deviations.min()),
    }


def noise_gain(noise_dwell: float, imaging_dwell: float) -> float:
    """Factor that scales noise samples to the bandwidth of the imaging acquisitions.

    The power of white noise is proportional to the bandwidth, the inverse of the dwell time.

    Parameters
    ----------
    noise_dwell, imaging_dwell
        Time of one sample of the noise scan and of the imaging acquisitions, in the same unit; 0
        means unknown, and the factor is then 1.

    References
    ----------
    Kellman and McVeigh, Magn Reson Med 54:1439 (2005); NoiseAdjustGadget of Gadgetron.
    """
    if noise_dwell <= 0 or imaging_dwell <= 0:
        return 1.0
    return math.sqrt(noise_dwell / imaging_dwell)


def mean_dwell(dwells: Sequence[float], samples: Sequence[int]) -> float:
    """Dwell time that corresponds to the mean noise power of readouts; 0 if one is unknown.

    Parameters
    ----------
    dwells, samples
        Dwell time and number of samples of each readout.
    """
    if min(dwells) <= 0:
        return 0.0
    if min(dwells) == max(dwells):
        return dwells[0]
    power = sum(n / dwell for dwell, n in zip(dwells, samples, strict=True))
    return sum(samples) / power


def whitening_matrix(covariance: torch.Tensor) -> torch.Tensor:
    """Matrix that transforms noise of this covariance to white noise of unit variance.

    Parameters
    ----------
    covariance
        Hermitian (c, c).

    Returns
    -------
        Inverse of the Cholesky factor, (c, c) complex128.

    Raises
    ------
    ValueError
        If the covariance is not positive definite, as with a coil without signal or two equal
        coils.

    References
    ----------
    Pruessmann et al., Magn Reson Med 46:638 (2001), Appendix B.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance.to(torch.complex128))
    if int(failed):
        raise ValueError("the noise covariance is not positive definite")
    unit = torch.eye(len(factor), dtype=factor.dtype)
    inverse: torch.Tensor = torch.linalg.solve_triangular(factor, unit, upper=False)
    return inverse


def compression_matrix(
    energy_matrix: torch.Tensor,
    virtual_coils: int = 0,
    energy_kept: float = 0.95,
    noise_energy: float = 0.0,
) -> tuple[torch.Tensor, float]:
    """Combination of coils into fewer virtual ones, strongest first.

    Parameters
    ----------
    energy_matrix
        Sum of x x^H over the prewhitened k-space samples x of all coils, (c, c).
    virtual_coils
        Number of virtual coils; 0 keeps the fraction of the energy that is `energy_kept`, with at
        most `MOST_DETERMINED_COILS` coils.
    energy_kept
        Fraction of the signal energy to keep.
    noise_energy
        Energy of the noise in the samples of one coil, which is subtracted.

    Returns
    -------
    matrix
        Virtual coils in orthonormal rows (virtual, c), which preserve white noise.
    energy
        Fraction of the energy kept.

    References
    ----------
    Buehrer et al., Magn Reson Med 57:1131 (2007); Huang et al., Magn Reson Imaging 26:133 (2008).
    """
    energies, vectors = torch.linalg.eigh(energy_matrix.to(torch.complex128))
    energies, vectors = (energies.flip(0) - noise_energy).clamp_min(0), vectors.flip(1)
    energies[0].clamp_min_(torch.finfo(energies.dtype).tiny)  # only noise: keep one coil
    kept = energies.cumsum(0) / energies.sum()
    needed = int((kept < energy_kept).sum()) + 1
    count = min(virtual_coils or min(needed, MOST_DETERMINED_COILS), len(energies))
    return vectors[:, :count].mH.contiguous(), float(kept[count - 1])
