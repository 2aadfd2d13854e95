"""Eigenvectors of many small Hermitian matrices, also on devices whose libraries fail at that."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled

_TOGETHER = 2**14
"""Matrices that are decomposed at once. cuSOLVER fails from about 2^15 on."""
_WORK = 2**27
"""Bound of the number of matrices at once times n^3 on a CPU: about 0.2 s on one core."""
_TOLERANCE = 1e-3
"""Largest deviation of V^H V from the identity, and of V diag(values) V^H from the matrix relative
to its largest eigenvalue. Right results are two orders of magnitude below."""

Decompose = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def hermitian_eigenvectors(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues and eigenvectors of Hermitian matrices.

    Matrices are processed in blocks, between which a `Cancellation` is looked at. On a GPU the
    results are checked: batched decompositions of complex matrices have had wrong eigenvectors
    there (PyTorch issue 192483). Blocks that fail or have wrong results are computed again on the
    CPU.

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
        together = min(_TOGETHER, max(1, _WORK // matrices.shape[-1] ** 3))
        return _by_blocks(matrices, together, torch.linalg.eigh)
    return _by_blocks(matrices, _TOGETHER, _checked_decomposition)


def _by_blocks(
    matrices: torch.Tensor, together: int, decompose: Decompose
) -> tuple[torch.Tensor, torch.Tensor]:
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    values = torch.empty(flat.shape[:-1], dtype=flat.real.dtype, device=flat.device)
    vectors = torch.empty_like(flat)
    for start in range(0, len(flat), together):
        raise_if_cancelled()
        block = slice(start, start + together)
        values[block], vectors[block] = decompose(flat[block])
    return values.reshape(matrices.shape[:-1]), vectors.reshape(matrices.shape)


def _checked_decomposition(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decompose a block on its device, or on the CPU if that fails or gives wrong results."""
    try:
        values, vectors = torch.linalg.eigh(matrices)
        if _is_decomposition(matrices, values, vectors):
            return values, vectors
    except RuntimeError:  # LinAlgError is one, and the library has others
        pass
    values, vectors = torch.linalg.eigh(matrices.cpu())
    return values.to(matrices.device), vectors.to(matrices.device)


def _is_decomposition(matrices: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor) -> bool:
    """Whether vectors are orthonormal and, with the values, give the matrices."""
    products = vectors.mH @ vectors
    products.diagonal(dim1=-2, dim2=-1).sub_(1)
    orthonormal = products.abs().amax() < _TOLERANCE
    rest = ((vectors * values[..., None, :]) @ vectors.mH - matrices).abs().amax((-2, -1))
    largest = values.abs().amax(-1)
    return bool(orthonormal & (rest <= _TOLERANCE * largest).all())
