"""Non-uniform Fourier transform on a GPU by torch's FFT and CUDA kernels of our own.

A sample is spread to the nearest points of a grid that is finer than the image's spectrum, with a
smooth window; the transform of that grid, divided by the transform of the window, is the image
(type 1). Type 2 is the adjoint: interpolation of the padded image's spectrum by the same window.
The kernels are in ``spreading.cu``.

References
----------
Barnett, Magland, af Klinteberg, SIAM J Sci Comput 41:C479 (2019), for window and errors;
Shih et al., arXiv:2102.08463 (2021), for samples in the order of their bins.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import scipy.fft
import torch

from mri2qmap.machine.cuda_kernels import Build, CudaKernels, compiled_by_cupy
from mri2qmap.operators.linear_operator import Shape

_SOURCE = Path(__file__).with_name("spreading.cu")
_UPSAMPLING, _LITTLE_UPSAMPLING = 2.0, 1.5
"""Sizes of the grid in units of those of the image. With 2 the window has 6^3 points at a tolerance
of 1e-4. With 1.5 it has 7^3, and the grid takes 0.42 times the memory. With 1.25, rounding errors
come near the tolerance, because the transform of the window is small at the border of the image."""
_GRID_BYTES = 2**29
"""Largest grid with an upsampling of 2: that of about 200^3 voxels. As many transforms as fit are
computed together, at least one. A transform needs this three times: for its input, its output, and
the work memory of the library."""
_BIN = 8
"""Edge of the bins in whose order samples are processed [grid points]."""
_AXES = (-3, -2, -1)


class CudaNufft:
    """Transforms of one set of samples.

    Type 1 is ``x(r) = sum_n y(n) exp(2 pi i k_n.r)`` with r counted in voxels from voxel
    ``n // 2`` of each axis, type 2 its adjoint.

    Parameters
    ----------
    trajectory
        Sample positions (samples, 3), columns kx, ky, kz [cycles/voxel], within -0.5 to 0.5, on
        the device of the transforms.
    shape
        Number of voxels (z, y, x).
    tolerance
        Relative accuracy, 1e-6 or more.
    build
        Compiler of the CUDA kernels.

    Raises
    ------
    ValueError
        If the tolerance is too small for single precision, or 1 and more.
    Mri2QmapError
        If CuPy is not installed.
    """

    def __init__(
        self,
        trajectory: torch.Tensor,
        shape: Shape,
        tolerance: float,
        build: Build = compiled_by_cupy,
    ) -> None:
        if not 1e-6 <= tolerance < 1:
            raise ValueError(f"tolerance must be from 1e-6 to 1 in single precision: {tolerance:g}")
        upsampling, self._grid = _UPSAMPLING, _grid_shape(shape, _UPSAMPLING, tolerance)
        if 8 * math.prod(self._grid) > _GRID_BYTES:
            upsampling = _LITTLE_UPSAMPLING
            self._grid = _grid_shape(shape, upsampling, tolerance)
        width = _width(upsampling, tolerance)
        self._shape = tuple(shape)
        self._beta = _shape_parameter(upsampling, width)
        self._factors = [
            _correction(n, size, width, self._beta).to(trajectory.device)
            for n, size in zip(shape, self._grid, strict=True)
        ]
        positions = trajectory.to(torch.float32).T.flip(0)  # z, y, x
        self._order = self._by_bins(positions)
        self._positions = positions[:, self._order].contiguous()
        self._width = width
        self._cuda = CudaKernels(_SOURCE, {"WIDTH": width}, trajectory.device, build)

    def execute(self, kind: int, data: torch.Tensor, out: torch.Tensor) -> None:
        """Compute a batch of transforms.

        Parameters
        ----------
        kind
            1, from samples (b, samples) to images (b, z, y, x), or 2, from images to samples.
        data
            Samples or images, complex64.
        out
            Images or samples, which are overwritten.
        """
        transform = self._type_1 if kind == 1 else self._type_2
        at_once = max(_GRID_BYTES // (8 * math.prod(self._grid)), 1)
        for some, result in zip(torch.split(data, at_once), torch.split(out, at_once), strict=True):
            transform(some, result)

    def _type_1(self, samples: torch.Tensor, images: torch.Tensor) -> None:
        grids = samples.new_zeros(len(samples), *self._grid)
        points = (self._positions, self._order)
        sizes = (len(self._order), len(samples), *self._grid)
        n_threads = len(self._order) * self._width
        self._cuda("spread", n_threads, *points, samples, grids, *sizes, self._beta)
        grids = torch.fft.ifftn(grids, dim=_AXES, norm="forward")  # exp(+2 pi i ...), no factor
        self._between_grids_and_images("crop", grids, images, len(samples))

    def _type_2(self, images: torch.Tensor, samples: torch.Tensor) -> None:
        grids = images.new_zeros(len(images), *self._grid)
        self._between_grids_and_images("pad", images, grids, len(images))
        grids = torch.fft.fftn(grids, dim=_AXES)
        points = (self._positions, self._order)
        sizes = (len(self._order), len(images), *self._grid)
        self._cuda("interpolate", len(self._order), *points, grids, samples, *sizes, self._beta)

    def _between_grids_and_images(
        self, name: str, source: torch.Tensor, target: torch.Tensor, count: int
    ) -> None:
        n_voxels = count * math.prod(self._shape)
        sizes = (*self._shape, *self._grid)
        self._cuda(name, n_voxels, source, target, *self._factors, n_voxels, *sizes)

    def _by_bins(self, positions: torch.Tensor) -> torch.Tensor:
        """Order of samples (3, samples) in which neighbours write to neighbouring points."""
        number = torch.zeros(positions.shape[1], dtype=torch.int64, device=positions.device)
        for position, size in zip(positions, self._grid, strict=True):
            place = ((position + 0.5) * size).clamp(0, size - 1).to(torch.int64)
            number.mul_(-(-size // _BIN)).add_(place // _BIN)
        return torch.argsort(number, stable=True)


def _width(upsampling: float, tolerance: float) -> int:
    """Width of the window [grid points] for a relative accuracy."""
    needed = -math.log(tolerance) / (math.pi * math.sqrt(1 - 1 / upsampling))
    return max(math.ceil(needed) + 1, 2)


def _shape_parameter(upsampling: float, width: int) -> float:
    """Parameter beta of the window: just below that whose aliases begin at the image's border."""
    return 0.97 * math.pi * width * (1 - 1 / (2 * upsampling))


def _grid_shape(shape: Shape, upsampling: float, tolerance: float) -> Shape:
    """Sizes of the grid, products of 2, 3 and 5 for the FFT."""
    least = 2 * _width(upsampling, tolerance)
    return tuple(
        int(scipy.fft.next_fast_len(max(math.ceil(upsampling * n), least), real=True))
        for n in shape
    )


def _correction(n: int, size: int, width: int, beta: float) -> torch.Tensor:
    """Inverse transform of the window at the voxels (n,) of an axis, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    window = weights * np.exp(beta * (np.sqrt(1 - nodes**2) - 1)) * (width / 2)
    voxels = np.arange(n) - n // 2
    turns = voxels[:, None] * nodes * (width / 2 / size)
    return torch.from_numpy(1 / (np.cos(2 * np.pi * turns) @ window)).to(torch.float32)
