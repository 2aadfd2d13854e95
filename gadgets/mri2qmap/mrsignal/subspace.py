"""The temporal subspace of a dictionary."""

from __future__ import annotations

import torch


def temporal_subspace(signals: torch.Tensor, n_coefficients: int) -> tuple[torch.Tensor, float]:
    """Leading left singular vectors of the dictionary.

    Atoms are brought to unit norm first, so that weak tissues count as much as strong ones
    (McGivney et al. 2014).

    Parameters
    ----------
    signals
        Atoms in time (atoms, frames), real or complex.
    n_coefficients
        Number s of vectors to keep.

    Returns
    -------
    basis
        Orthonormal Phi (frames, s), of the signals' precision.
    energy_kept
        Fraction of the energy of the normalised atoms that lies in the subspace.

    Raises
    ------
    ValueError
        If more coefficients than frames are asked for.
    """
    n_frames = signals.shape[1]
    if not 1 <= n_coefficients <= n_frames:
        raise ValueError(f"{n_coefficients} coefficients asked for, there are {n_frames} frames")
    high = torch.complex128 if signals.is_complex() else torch.float64
    unit = signals.to(high)
    unit = unit / torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    # The eigenvectors of a frames x frames matrix: far cheaper than an SVD of all atoms.
    energies, vectors = torch.linalg.eigh(unit.T @ unit.conj())
    basis = vectors[:, -n_coefficients:].flip(1)
    # The sign of an eigenvector is arbitrary; fixed here so that runs and machines agree.
    leading = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * (leading.abs() / leading)
    kept = float(energies[-n_coefficients:].sum() / energies.sum())
    return basis.to(signals.dtype).contiguous(), kept
