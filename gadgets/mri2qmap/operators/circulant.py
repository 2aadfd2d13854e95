"""A circulant stand-in for the Toeplitz gram, which can be inverted frequency by frequency.

Non-cartesian samples crowd at the centre of k-space, where A^H A is hundreds of times its mean.
Conjugate gradients must follow that range; divided by the circulant, it is gone. What is left for
them to find are the combinations of neighbouring frequencies between which samples are missing.
"""

from __future__ import annotations

import math

import torch

from mri2qmap.operators.kernel_product import apply_kernels, n_coefficients_of

#: Least that the inverse assumes beside the circulant, in units of its mean diagonal: nowhere does
#: it rely on frequencies that are hardly sampled. Results were the same from 0.01 to 1.
_FLOOR = 0.05
_AT_ONCE = 2**18  # frequencies inverted together


def nearest_circulant(kernels: torch.Tensor) -> torch.Tensor:
    """Spectra of the circulant convolutions nearest to the Toeplitz ones.

    Nearest in the Frobenius norm: the point-spread function, periodic on the image grid, has at
    each lag the mean of what voxels see there. The lags are thereby weighted with a triangle. On
    the double grid of the kernels that is a smoothing: half of the value at the frequency itself,
    and those halfway between the frequencies of the image with weights that fall as the square of
    the distance.

    Parameters
    ----------
    kernels
        Kernels (2, 2, 2, pairs, z, y, x), see `toeplitz_kernels`.

    Returns
    -------
        (pairs, z, y, x): a Hermitian, positive semidefinite matrix at each frequency, as the upper
        triangle row by row.

    References
    ----------
    T. Chan, SIAM J Sci Stat Comput 9:766 (1988); R. Chan and Ng, SIAM Rev 38:427 (1996).
    """
    # One after the other: the work arrays are as large as the kernels that are smoothed.
    return torch.stack([_smoothed(kernel) for kernel in kernels.unbind(3)])


def _smoothed(kernel: torch.Tensor) -> torch.Tensor:
    """From one kernel (2, 2, 2, z, y, x) to (z, y, x)."""
    half = kernel
    for axis in (-3, -2, -1):
        even, odd = half
        smoothing = _halfway_weights(kernel.shape[axis]).to(odd)
        between = torch.tensordot(odd.movedim(axis, -1), smoothing, dims=([-1], [1]))
        half = even / 2 + between.movedim(-1, axis)
    return half


def _halfway_weights(size: int) -> torch.Tensor:
    """Weights (size, size) of the frequencies j + 1/2 in that of i: the transform of a triangle."""
    odd = 2 * torch.arange(size)[:, None] - 2 * torch.arange(size)[None] - 1
    return 0.5 / (size * torch.sin(odd.double() * (math.pi / (2 * size)))) ** 2


class CirculantGram:
    """The circulant nearest to A^H A for coils with unit root-sum-of-squares.

    Parameters
    ----------
    kernels
        Kernels as `toeplitz_kernels` gives them.
    mean_diagonal
        Of the gram.
    """

    def __init__(self, kernels: torch.Tensor, mean_diagonal: float) -> None:
        self._matrices = nearest_circulant(kernels)
        self._mean_diagonal = mean_diagonal

    def inverse(self, added: torch.Tensor | float) -> CirculantInverse:
        """Invert the sum of the circulant and a multiple of the identity at each frequency.

        Parameters
        ----------
        added
            The multiple, real and not negative: one number or (z, y, x) in the order of the FFT.
        """
        pairs, *shape = self._matrices.shape
        size = n_coefficients_of(pairs)
        rows, columns = torch.triu_indices(size, size, device=self._matrices.device)
        added = torch.as_tensor(added).to(self._matrices.real) + _FLOOR * self._mean_diagonal
        shifts = added.expand(shape).reshape(-1).split(_AT_ONCE)
        inverses = torch.empty_like(self._matrices).reshape(pairs, -1)
        parts = inverses.split(_AT_ONCE, dim=1)
        for part, packed, shift in zip(
            parts, self._matrices.reshape(pairs, -1).split(_AT_ONCE, dim=1), shifts, strict=True
        ):
            full = packed.new_empty(packed.shape[1], size, size)
            full[:, columns, rows] = packed.T.conj()
            full[:, rows, columns] = packed.T
            full.diagonal(dim1=1, dim2=2).add_(shift[:, None])
            part.copy_(torch.linalg.inv_ex(full).inverse[:, rows, columns].T)
        return CirculantInverse(inverses.reshape(self._matrices.shape))


class CirculantInverse:
    """Preconditioner for conjugate gradients on the gram and what is added to it.

    Parameters
    ----------
    matrices
        Upper triangle of the Hermitian matrix of each frequency (pairs, z, y, x).
    """

    def __init__(self, matrices: torch.Tensor) -> None:
        self._matrices = matrices

    def __call__(self, tsmi: torch.Tensor) -> torch.Tensor:
        """Apply to a TSMI (s, z, y, x), complex64."""
        axes = (2, 3, 4)
        spectra = torch.fft.fftn(tsmi[None], dim=axes)
        return torch.fft.ifftn(apply_kernels(self._matrices, spectra), dim=axes)[0]
