"""The circulant nearest to the Toeplitz gram, a preconditioner that is inverted by frequency.

Non-Cartesian samples are dense at the centre of k-space, where A^H A is hundreds of times its mean.
This range slows conjugate gradients down; the circulant preconditioner removes it. What remains to
be solved are combinations of neighbouring frequencies with gaps between the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.operators.fused_convolution import fused_convolution
from mri2qmap.operators.kernel_product import apply_kernels, n_coefficients_of
from mri2qmap.operators.linear_operator import SelfAdjointOperator, Shape

_DAMPING = 0.05
"""Multiple of the identity, in units of the mean diagonal of the gram, that is added before the
inversion. It limits the inverse at frequencies with few samples. Results were the same from 0.01
to 1."""
_INVERTED_TOGETHER = 2**18
"""Number of frequencies whose matrices are unpacked and inverted together."""


def nearest_circulant(pairs: Iterable[torch.Tensor]) -> torch.Tensor:
    """Spectra of the circulant convolutions nearest to the Toeplitz ones.

    Nearest in the Frobenius norm: the periodic point-spread function is, at each lag, the mean of
    the Toeplitz matrix over all pairs of voxels with that lag modulo the image size. This weights
    the lags with a triangle. On the double grid of the kernels it is a smoothing: half of the value
    at the frequency itself, plus the values halfway between the frequencies of the image with
    weights that fall with the square of the distance.

    Parameters
    ----------
    pairs
        Kernels (2, 2, 2, z, y, x) of one pair after the other, see `toeplitz_kernels`.

    Returns
    -------
        (pairs, z, y, x): a Hermitian, positive semidefinite matrix at each frequency, as the upper
        triangle row by row.

    References
    ----------
    T. Chan, SIAM J Sci Stat Comput 9:766 (1988); R. Chan and Ng, SIAM Rev 38:427 (1996).
    """
    # One pair at a time, because the work arrays are as large as the kernels being smoothed.
    return torch.stack([_smoothed(kernel) for kernel in pairs])


def _smoothed(kernel: torch.Tensor) -> torch.Tensor:
    """Spectrum (z, y, x) of the circulant nearest to one kernel (2, 2, 2, z, y, x)."""
    half = kernel
    for axis in (-3, -2, -1):
        even, odd = half
        smoothing = _halfway_weights(kernel.shape[axis], kernel.device).to(odd.dtype)
        between = torch.tensordot(odd.movedim(axis, -1), smoothing, dims=([-1], [1]))
        half = even / 2 + between.movedim(-1, axis)
    return half


def _halfway_weights(size: int, device: torch.device) -> torch.Tensor:
    """Weights (size, size) of frequency j + 1/2 in that of i: the transform of a triangle."""
    twice = 2 * torch.arange(size, device=device)
    odd = twice[:, None] - twice - 1
    return 0.5 / (size * torch.sin(odd.double() * (math.pi / (2 * size)))) ** 2


class BlockCirculant(SelfAdjointOperator):
    """Periodic convolution of a TSMI with Hermitian kernels: a small matrix at each frequency.

    Parameters
    ----------
    matrices
        Upper triangle of the Hermitian matrix of each frequency (pairs, z, y, x), row by row.
    """

    def __init__(self, matrices: torch.Tensor) -> None:
        self._fused = fused_convolution(matrices[None, None, None])
        if self._fused is not None:
            matrices = self._fused.kernels[0, 0, 0]
        self._matrices = matrices

    @property
    def domain_shape(self) -> Shape:
        """Shape (s, z, y, x) of a TSMI."""
        pairs, *shape = self._matrices.shape
        return (n_coefficients_of(pairs), *shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve a TSMI (s, z, y, x), complex64."""
        if self._fused is not None:
            return self._fused(x)
        axes = (2, 3, 4)
        spectra = torch.fft.fftn(x[None], dim=axes)
        result: torch.Tensor = torch.fft.ifftn(apply_kernels(self._matrices, spectra), dim=axes)
        return result[0]


class CirculantGram(BlockCirculant):
    """The circulant nearest to A^H A for coils with unit root-sum-of-squares.

    Parameters
    ----------
    pairs
        Kernels (2, 2, 2, z, y, x) of one pair after the other, see `toeplitz_kernels`.
    mean_diagonal
        Mean of the diagonal of the gram.
    """

    def __init__(self, pairs: Iterable[torch.Tensor], mean_diagonal: float) -> None:
        super().__init__(nearest_circulant(pairs))
        self._mean_diagonal = mean_diagonal

    def inverse(self, added: torch.Tensor | float) -> BlockCirculant:
        """Inverse of the circulant plus a multiple of the identity at each frequency.

        A small constant multiple is always added, so that the inverse is bounded: this makes it a
        preconditioner rather than the exact inverse.

        Parameters
        ----------
        added
            The multiple, real and not negative: one number or (z, y, x) in the order of the FFT, on
            the device of the kernels.
        """
        pairs, *shape = self._matrices.shape
        size = n_coefficients_of(pairs)
        rows, columns = torch.triu_indices(size, size, device=self._matrices.device)
        shift = self._matrices.real.new_full((), _DAMPING * self._mean_diagonal) + added
        shifts = torch.split(shift.expand(shape).reshape(-1), _INVERTED_TOGETHER)
        inverses = self._matrices.new_empty(pairs, math.prod(shape))
        parts = torch.split(inverses, _INVERTED_TOGETHER, dim=1)
        matrices = torch.split(self._matrices.reshape(pairs, -1), _INVERTED_TOGETHER, dim=1)
        for part, packed, shift in zip(parts, matrices, shifts, strict=True):
            raise_if_cancelled()
            full = packed.new_empty(packed.shape[1], size, size)
            full[:, columns, rows] = packed.T.conj()
            full[:, rows, columns] = packed.T
            full.diagonal(dim1=1, dim2=2).add_(shift[:, None])
            part.copy_(torch.linalg.inv_ex(full).inverse[:, rows, columns].T)
        return BlockCirculant(inverses.reshape(self._matrices.shape))
