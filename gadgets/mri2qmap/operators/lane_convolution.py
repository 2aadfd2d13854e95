"""Convolution of a TSMI with Hermitian matrices of kernels on the CPU, fused and by cache blocks.

A convolution on the double grid by `mri2qmap.operators.toeplitz` consists of 8 transforms of the
image size, one for each parity of the frequencies along z, y and x. They are nested here: the image
is transformed along x for each parity of kx, each of the results along y for each parity of ky,
and each of those along z for each parity of kz, where the product with the kernels and the inverse
transform follow immediately, while the lines are in the cache. Of 24 transforms of lines each way,
14 remain. Work arrays hold three volumes of each coefficient and coil of a group of coils.

Volumes lie in blocks of 16 frequencies kx, so that lines along y and z are transformed 16 at once
(`mri2qmap.operators.lane_fft`) and every access is to whole cache lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.machine.simd import HAS_HALF_PRECISION, LANES
from mri2qmap.machine.worker_threads import run_in_threads
from mri2qmap.operators.kernel_product import n_coefficients_of, pair_index
from mri2qmap.operators.lane_fft import LARGEST_RADIX, radices
from mri2qmap.operators.lane_passes import (
    PLANES_TOGETHER,
    Split,
    axis_of,
    n_vectors,
    x_backward,
    x_forward,
    y_backward,
    y_forward,
    z_product,
)


def lane_kernels(
    n_parities: int,
    n_pairs: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Zeros for kernels (parities, parities, parities, pairs, z, y, x), in the fastest order.

    In memory, y comes before pairs, z and x, because a plane of kernels of the same ky is used at
    once. Rows are filled up to whole vectors. Each pair has one unused row, so that pairs do not
    fall on the same lines of the caches.
    """
    nz, ny, nx = shape
    parities = (n_parities,) * 3
    size = (*parities, ny, n_pairs, nz + 1, n_vectors(nx) * LANES)
    stored = torch.zeros(size, dtype=dtype, device=device)
    return stored[..., :nz, :nx].permute(0, 1, 2, 4, 5, 3, 6)


class LaneConvolution:
    """Multiplication of the spectra of a TSMI with a Hermitian matrix at each frequency.

    Parameters
    ----------
    kernels
        Upper triangle of the matrices (p, p, p, pairs, z, y, x), row by row; float32 or float16, or
        complex64 for a complex subspace. With p = 2 these are the parities of the double grid, with
        p = 1 the convolution is periodic. They are copied unless they are in the order of
        `lane_kernels`. Without instructions for float16, they are converted to float32.
    scale
        Factor of the kernels.
    coils_together
        Number of coils that are convolved together. The kernels are read from memory once for all
        of them, but more memory is needed.

    Attributes
    ----------
    kernels
        The kernels in that order.
    """

    def __init__(self, kernels: torch.Tensor, scale: float = 1.0, coils_together: int = 2) -> None:
        if kernels.dtype != torch.float16 or not HAS_HALF_PRECISION:
            kernels = kernels.to(torch.complex64 if kernels.is_complex() else torch.float32)
        self._scale = scale
        self._coils_together = coils_together
        self._n_parities, n_pairs = kernels.shape[0], kernels.shape[3]
        nz, ny, nx = self._shape = tuple(kernels.shape[4:])
        self._n_coefficients = n_coefficients_of(n_pairs)
        layout = (self._n_parities, n_pairs, self._shape, kernels.dtype)
        if not _same_order(kernels, lane_kernels(*layout, device="meta")):
            kernels = lane_kernels(*layout).copy_(kernels)
        self.kernels = kernels
        self._complex = kernels.is_complex()
        size = (*kernels.shape[:3], ny * n_pairs * (nz + 1) * n_vectors(nx) * LANES)
        stored = kernels.as_strided(size, (*kernels.stride()[:3], 1))
        rows = (torch.view_as_real(stored).flatten(-2) if self._complex else stored).numpy()
        # The loops know numbers in half precision by their bits only.
        self._rows = rows.view(np.uint16) if rows.dtype == np.float16 else rows
        self._axes = [axis_of(n) for n in self._shape]
        s = self._n_coefficients
        pairs = [[pair_index(min(i, j), max(i, j), s) for j in range(s)] for i in range(s)]
        self._pairs = np.array(pairs, dtype=np.int64) * ((nz + 1) * n_vectors(nx))

    @staticmethod
    def fits(shape: tuple[int, ...], device: torch.device | str) -> bool:
        """Whether convolutions (z, y, x) are on the CPU and of sizes with small prime factors."""
        return torch.device(device).type == "cpu" and all(
            max(radices(size), default=1) <= LARGEST_RADIX for size in shape
        )

    def __call__(
        self,
        x: torch.Tensor,
        coil_maps: torch.Tensor | None = None,
        x_parities: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Convolve a TSMI (s, z, y, x), or sum S^H conv(S x) over coils with maps S (c, z, y, x).

        Complex64. The result is a new tensor. With `x_parities`, it is the part of frequencies kx
        of these parities; the parts add up to the whole.
        """
        if tuple(x.shape) != (self._n_coefficients, *self._shape):
            raise ValueError(
                f"expected a TSMI of {(self._n_coefficients, *self._shape)}, got {tuple(x.shape)}"
            )
        if coil_maps is not None and tuple(coil_maps.shape[1:]) != self._shape:
            raise ValueError(f"coil maps {tuple(coil_maps.shape)} do not fit {self._shape}")
        if coil_maps is not None and not len(coil_maps):
            return torch.zeros_like(x)
        image = x.resolve_conj().contiguous().numpy()
        result = torch.zeros(x.shape, dtype=torch.complex64)
        maps = np.empty((0, 1, 1, 1), dtype=np.complex64)
        if coil_maps is not None:
            maps = coil_maps.resolve_conj().contiguous().numpy()
        n_coils = max(min(self._coils_together, len(maps)), 1)
        work = [self._buffer(n_coils * self._n_coefficients) for _ in range(3)]
        parities = range(self._n_parities) if x_parities is None else x_parities
        for first in range(0, max(len(maps), 1), n_coils):
            self._convolve(image, maps[first : first + n_coils], work, result.numpy(), parities)
        return result

    def _convolve(
        self,
        image: NDArray[np.complex64],
        maps: NDArray[np.complex64],
        work: list[Split],
        result: NDArray[np.complex64],
        x_parities: Sequence[int],
    ) -> None:
        """Add the convolution of the images of some coils to the result."""
        nz, ny, nx = self._shape
        z, y, x = self._axes
        rows, planes, sums = work
        n_volumes = max(len(maps), 1) * self._n_coefficients
        sizes = (self._n_coefficients, n_volumes, nz, ny, n_vectors(nx))
        scale = np.float32(
            self._scale / (self._n_parities * nz * self._n_parities * ny * self._n_parities * nx)
        )
        n_lines = n_vectors(nx) * -(-nz // PLANES_TOGETHER)
        parities = range(self._n_parities)

        for odd_x in x_parities:
            run_in_threads(x_forward, image, maps, rows, sizes, x, odd_x, n_steps=n_volumes * nz)
            for odd_y in parities:
                run_in_threads(y_forward, rows, planes, sizes, y, odd_y, n_steps=n_lines)
                kernels = [self._rows[odd_z, odd_y, odd_x] for odd_z in parities]
                both = (kernels[0], kernels[-1], self._pairs, self._n_parities, self._complex)
                run_in_threads(z_product, planes, *both, sizes, z, n_steps=ny * n_vectors(nx))
                run_in_threads(y_backward, planes, sums, sizes, y, odd_y, n_steps=n_lines)
            arguments = (sums, maps, result, sizes, x, odd_x, scale)
            run_in_threads(x_backward, *arguments, n_steps=self._n_coefficients * nz)

    def _buffer(self, n_volumes: int) -> Split:
        """Memory for volumes in the order of `x_forward` or `y_forward`."""
        nz, ny, nx = self._shape
        by_rows = n_volumes * nz * n_vectors(ny) * LANES
        by_planes = ny * (n_volumes * nz + 1)
        size = n_vectors(nx) * max(by_rows, by_planes) * LANES
        return Split(np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32))


def _same_order(kernels: torch.Tensor, ordered: torch.Tensor) -> bool:
    """Whether kernels lie in memory like those of `lane_kernels`, with filled-up rows."""
    if kernels.stride() != ordered.stride() or kernels.is_conj():
        return False
    needed = ordered.untyped_storage().nbytes() // ordered.element_size()
    there = kernels.untyped_storage().nbytes() // kernels.element_size() - kernels.storage_offset()
    return there >= needed
