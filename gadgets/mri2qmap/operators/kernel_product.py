"""The matrix product inside Toeplitz gram and circulant: a Hermitian matrix at each frequency."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.machine.compiled_loops import compiled, torch_threads

BLOCK = 512  # frequencies processed together; all their rows fit into the first-level cache


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
        Coefficient spectra (batch, s, z, y, x), complex64. Overwritten on the CPU.

    Returns
    -------
        Products (batch, s, z, y, x).
    """
    if _on_cpu(spectra):
        flat = spectra.reshape(*spectra.shape[:2], -1)
        with torch_threads():
            _multiply_in_place(kernels.reshape(len(kernels), -1).numpy(), flat.numpy())
        return flat.reshape(spectra.shape)
    n_coefficients = spectra.shape[1]
    product = torch.zeros_like(spectra)
    for row in range(n_coefficients):
        for column in range(row, n_coefficients):
            kernel = kernels[pair_index(row, column, n_coefficients)]
            product[:, row].addcmul_(kernel, spectra[:, column])
            if row != column:
                product[:, column].addcmul_(kernel.conj(), spectra[:, row])
    return product


def _on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


@compiled(parallel=True, fastmath=True)
def _multiply_in_place(
    kernels: NDArray[np.generic], spectra: NDArray[np.complex64]
) -> None:  # pragma: no cover - compiled
    n_batch, n_coefficients, n_frequencies = spectra.shape
    for block in numba.prange((n_frequencies + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        stop = min(start + BLOCK, n_frequencies)
        size = stop - start
        product = np.empty((n_coefficients, BLOCK), dtype=spectra.dtype)
        for batch in range(n_batch):
            product[:] = 0
            pair = 0
            for row in range(n_coefficients):
                for column in range(row, n_coefficients):
                    kernel = kernels[pair, start:stop]
                    right = spectra[batch, column, start:stop]
                    for i in range(size):
                        product[row, i] += kernel[i] * right[i]
                    if row != column:
                        below = spectra[batch, row, start:stop]
                        for i in range(size):
                            product[column, i] += np.conj(kernel[i]) * below[i]
                    pair += 1
            for row in range(n_coefficients):
                for i in range(size):
                    spectra[batch, row, start + i] = product[row, i]
