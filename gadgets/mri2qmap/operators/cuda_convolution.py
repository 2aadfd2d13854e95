"""Convolution of a TSMI with Hermitian matrices of kernels on a GPU.

As in `mri2qmap.operators.toeplitz`, the double grid is worked through as eight parity grids of the
image size. Between torch's Fourier transforms, kernels of our own (``convolution.cu``) multiply
with coil maps and phase ramp, with the kernel matrices, and with the conjugate of maps and ramp.
Each of them reads and writes the images of some coils once, and the kernel matrices are read once
for all of these coils.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.cuda_kernels import Build, CudaKernels, compiled_by_cupy, cuda_kernels_run
from mri2qmap.operators.kernel_product import n_coefficients_of

_SOURCE = Path(__file__).with_name("convolution.cu")
CONVOLVED_BYTES = 2**30
"""Size of the images of coils that are convolved together, if they are several. A transform needs
this three times: for its input, its output, and the work memory of the library."""
_AXES = (-3, -2, -1)


class CudaConvolution:
    """Multiplication of the spectra of a TSMI with a Hermitian matrix at each frequency.

    Parameters
    ----------
    kernels
        Upper triangle of the matrices (p, p, p, pairs, z, y, x), row by row; float32 or float16, or
        complex64 for a complex subspace. With p = 2 these are the parities of the double grid, with
        p = 1 the convolution is periodic.
    scale
        Factor of the kernels.
    coils_together
        Largest number of coils that are convolved together; by default as many as are fast.
    build
        Compiler of the CUDA kernels.

    Attributes
    ----------
    kernels
        The kernels in C order.
    """

    def __init__(
        self,
        kernels: torch.Tensor,
        scale: float = 1.0,
        coils_together: int | None = None,
        build: Build = compiled_by_cupy,
    ) -> None:
        self._n_parities, n_pairs, *shape = kernels.shape[2:]
        self._shape = (n_coefficients_of(n_pairs), *shape)
        self._complex = kernels.is_complex()
        macros = {
            "N_COEFFICIENTS": self._shape[0],
            "COMPLEX_KERNELS": int(self._complex),
            "HALF_KERNELS": int(kernels.dtype == torch.float16),
        }
        self._cuda = CudaKernels(_SOURCE, macros, kernels.device, build)
        if kernels.dtype != torch.float16:
            kernels = kernels.to(torch.complex64 if self._complex else torch.float32)
        self.kernels = kernels.resolve_conj().contiguous()
        self._coils_together = coils_together
        # The factor of the inverse transform of the whole grid is among the scales.
        scale /= self._n_parities**3 * math.prod(shape)
        self._scales = torch.full((n_pairs,), scale, device=kernels.device)

    @staticmethod
    def fits(device: torch.device | str) -> bool:
        """Whether the device is a GPU on which CUDA kernels can be compiled and run."""
        device = torch.device(device)
        return device.type == "cuda" and cuda_kernels_run(device)

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
        if tuple(x.shape) != self._shape:
            raise ValueError(f"expected a TSMI of {self._shape}, got {tuple(x.shape)}")
        if coil_maps is not None and tuple(coil_maps.shape[1:]) != self._shape[1:]:
            raise ValueError(f"coil maps {tuple(coil_maps.shape)} do not fit {self._shape[1:]}")
        image = _plain(x)
        if coil_maps is None and self._n_parities == 1:
            spectra = self._multiplied(torch.fft.fftn(image[None], dim=_AXES), (0, 0, 0))
            result: torch.Tensor = torch.fft.ifftn(spectra, dim=_AXES, norm="forward")[0]
            return result
        result = torch.zeros_like(image)
        both = range(self._n_parities)
        parities = list(itertools.product(both, both, both if x_parities is None else x_parities))
        if coil_maps is None:
            self._convolve(image, None, 1, result, parities)
        else:
            at_once = self._coils_together or max(CONVOLVED_BYTES // image.nbytes, 1)
            all_maps = _plain(coil_maps)
            for first in range(0, len(all_maps), at_once):
                maps = all_maps[first : first + at_once]
                self._convolve(image, maps, len(maps), result, parities)
        return result

    def _convolve(
        self,
        image: torch.Tensor,
        maps: torch.Tensor | None,
        n_coils: int,
        result: torch.Tensor,
        parities: Sequence[tuple[int, ...]],
    ) -> None:
        """Add the convolution of the images of some coils to the result."""
        shape = self._shape[1:]
        for parity in parities:
            raise_if_cancelled()
            sizes = (*shape, n_coils, *parity)
            work = image.new_empty(n_coils, *self._shape)
            self._cuda("modulate", math.prod(shape), image, maps, work, *sizes)
            # One name for all, so that no more than two exist. The transforms' own `out` would not
            # save one: it receives a copy.
            work = torch.fft.fftn(work, dim=_AXES)
            work = self._multiplied(work, parity)
            work = torch.fft.ifftn(work, dim=_AXES, norm="forward")  # its factor is in the scales
            self._cuda("accumulate", math.prod(shape), work, maps, result, *sizes)

    def _multiplied(self, spectra: torch.Tensor, parity: tuple[int, ...]) -> torch.Tensor:
        """Multiply spectra (c, s, z, y, x) of the grid of one parity in place."""
        n_voxels = math.prod(self._shape[1:])
        arguments = (self.kernels[parity], self._scales, spectra, n_voxels, len(spectra))
        self._cuda("apply_kernels", n_voxels, *arguments)
        return spectra


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Complex numbers in single precision, as a kernel reads them."""
    return tensor.to(torch.complex64).resolve_conj().contiguous()
