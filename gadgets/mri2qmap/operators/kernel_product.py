"""The matrix product inside Toeplitz gram and circulant: a Hermitian matrix at each frequency."""

from __future__ import annotations

import math

import torch


def pair_index(row: int, column: int, n_coefficients: int) -> int:
    """Position of (row, column), row <= column, among the stored pairs of the upper triangle."""
    return row * n_coefficients - row * (row - 1) // 2 + column - row


def n_coefficients_of(n_pairs: int) -> int:
    """Number of coefficients s of matrices of which ``n_pairs`` = s (s + 1) / 2 are stored."""
    return (math.isqrt(8 * n_pairs + 1) - 1) // 2


def apply_kernels(kernels: torch.Tensor, spectra: torch.Tensor) -> torch.Tensor:
    """Multiply spectra by the kernel matrix of each frequency.

    Parameters
    ----------
    kernels
        Upper triangle of the Hermitian matrices (pairs, z, y, x), row by row; real for a real
        subspace.
    spectra
        Coefficient spectra (batch, s, z, y, x), complex64.

    Returns
    -------
        Products (batch, s, z, y, x).
    """
    n_coefficients = spectra.shape[1]
    product = torch.zeros_like(spectra)
    for row in range(n_coefficients):
        for column in range(row, n_coefficients):
            kernel = kernels[pair_index(row, column, n_coefficients)]
            product[:, row].addcmul_(kernel, spectra[:, column])
            if row != column:
                product[:, column].addcmul_(kernel.conj(), spectra[:, row])
    return product
