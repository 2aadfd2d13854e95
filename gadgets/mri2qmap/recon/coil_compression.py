"""Noise prewhitening and coil compression."""

from __future__ import annotations

import torch


def noise_covariance(noise: torch.Tensor) -> torch.Tensor:
    """Covariance of noise samples (c, samples), as (c, c) complex128."""
    noise = noise.to(torch.complex128)
    noise = noise - noise.mean(1, keepdim=True)
    return noise @ noise.mH / (noise.shape[1] - 1)


def whitening_matrix(covariance: torch.Tensor) -> torch.Tensor:
    """Matrix that turns noise of this covariance into white noise of unit variance.

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
        If the covariance is not positive definite: a coil is dead or doubled.

    References
    ----------
    Pruessmann et al., Magn Reson Med 46:638 (2001), Appendix B.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance.to(torch.complex128))
    if int(failed):
        raise ValueError("the noise covariance is not positive definite")
    unit = torch.eye(len(factor), dtype=factor.dtype)
    return torch.linalg.solve_triangular(factor, unit, upper=False)


def compression_matrix(
    samples: torch.Tensor,
    virtual_coils: int = 0,
    energy_kept: float = 0.95,
    noise_energy: float = 0.0,
) -> tuple[torch.Tensor, float]:
    """Combination of coils into fewer virtual ones, strongest first.

    Parameters
    ----------
    samples
        Prewhitened k-space samples (c, samples).
    virtual_coils
        How many to keep; 0 keeps as many as `energy_kept` asks for.
    energy_kept
        Fraction of the signal energy to keep.
    noise_energy
        Energy of the noise among the samples of one coil, which is not counted as signal.

    Returns
    -------
    matrix
        Rows are virtual coils (virtual, c), orthonormal, so that white noise stays white.
    energy
        Fraction of the energy kept.

    References
    ----------
    Buehrer et al., Magn Reson Med 57:1131 (2007); Huang et al., Magn Reson Imaging 26:133 (2008).
    """
    samples = samples.to(torch.complex128)
    energies, vectors = torch.linalg.eigh(samples @ samples.mH)
    energies, vectors = (energies.flip(0) - noise_energy).clamp_min(0), vectors.flip(1)
    energies[0].clamp_min_(torch.finfo(energies.dtype).tiny)  # nothing but noise: keep one coil
    kept = energies.cumsum(0) / energies.sum()
    count = virtual_coils or int((kept < energy_kept).sum()) + 1
    count = min(count, len(energies))
    return vectors[:, :count].mH.contiguous(), float(kept[count - 1])
