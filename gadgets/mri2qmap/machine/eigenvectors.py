"""Eigenvectors of many small Hermitian matrices, also on devices whose libraries fail at that."""

from __future__ import annotations

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled

_TOGETHER = 2**14
"""Matrices that are given to a GPU's library at once. cuSOLVER fails from about 2^15 on."""
_TOLERANCE = 1e-3
"""Largest deviation of V^H V from the identity, and of V diag(values) V^H from the matrix relative
to its largest eigenvalue. Right results are two orders of magnitude below."""


def hermitian_eigenvectors(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues and eigenvectors of Hermitian matrices.

    On a GPU, matrices are processed in blocks, and the results are checked: batched decompositions
    of complex matrices have had wrong eigenvectors there (PyTorch issue 192483). Blocks that fail
    or have wrong results are computed again on the CPU.

    Parameters
    ----------
    matrices
        (..., n, n), real or complex.

    Returns
    -------
    values
        (..., n) in ascending order, real.
    vectors
        (..., n, n), orthonormal columns.
    """
    if matrices.device.type == "cpu":
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    return _by_blocks(matrices)


def _by_blocks(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decompose block by block, with checks."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    values = torch.empty(flat.shape[:-1], dtype=flat.real.dtype, device=flat.device)
    vectors = torch.empty_like(flat)
    for start in range(0, len(flat), _TOGETHER):
        raise_if_cancelled()
        block = slice(start, start + _TOGETHER)
        try:
            values[block], vectors[block] = torch.linalg.eigh(flat[block])
            right = _is_decomposition(flat[block], values[block], vectors[block])
        except RuntimeError:  # LinAlgError is one, and the library has others
            right = False
        if not right:
            again = torch.linalg.eigh(flat[block].cpu())
            values[block], vectors[block] = (part.to(flat.device) for part in again)
    return values.reshape(matrices.shape[:-1]), vectors.reshape(matrices.shape)


def _is_decomposition(matrices: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor) -> bool:
    """Whether vectors are orthonormal and, with the values, give the matrices."""
    products = vectors.mH @ vectors
    products.diagonal(dim1=-2, dim2=-1).sub_(1)
    orthonormal = products.abs().amax() < _TOLERANCE
    rest = ((vectors * values[..., None, :]) @ vectors.mH - matrices).abs().amax((-2, -1))
    largest = values.abs().amax(-1)
    return bool(orthonormal & (rest <= _TOLERANCE * largest).all())
