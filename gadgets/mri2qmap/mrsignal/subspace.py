"""Temporal subspace of a dictionary."""

from __future__ import annotations

import torch


def temporal_subspace(signals: torch.Tensor, n_coefficients: int) -> tuple[torch.Tensor, float]:
    """Return the leading singular vectors of the dictionary in time.

    Atoms are normalised first, so that tissues of low signal have the same weight as others.

    Parameters
    ----------
    signals
        Atoms in time (atoms, frames), real or complex.
    n_coefficients
        Number s of vectors.

    Returns
    -------
    basis
        Orthonormal Phi (frames, s), of the signals' data type.
    energy_kept
        Fraction of the energy of the normalised atoms within the subspace.

    Raises
    ------
    ValueError
        If the number of coefficients is not between 1 and the number of frames.

    References
    ----------
    McGivney et al., IEEE Trans Med Imaging 33:2311 (2014).
    """
    n_frames = signals.shape[1]
    if not 1 <= n_coefficients <= n_frames:
        raise ValueError(
            f"{n_coefficients} coefficients requested; expected 1 to {n_frames} (frames)"
        )
    high = torch.complex128 if signals.is_complex() else torch.float64
    unit = signals.to(high)
    unit = unit / torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    # Eigenvectors of the smaller Gram matrix: much faster than an SVD.
    if n_coefficients <= len(unit) < n_frames:
        energies, atoms = torch.linalg.eigh(unit @ unit.mH)
        basis = torch.linalg.qr(unit.T @ atoms[:, -n_coefficients:].flip(1).conj()).Q
    else:
        energies, vectors = torch.linalg.eigh(unit.T @ unit.conj())
        basis = vectors[:, -n_coefficients:].flip(1)
    # The sign (phase) of an eigenvector is arbitrary; it is fixed for reproducibility.
    leading = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * (leading.abs() / leading)
    kept = float(energies[-n_coefficients:].sum() / energies.sum())
    return basis.to(signals.dtype).contiguous(), kept
