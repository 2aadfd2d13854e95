"""Choice of the fused convolution for a device."""

from __future__ import annotations

import torch

from mri2qmap.operators.cuda_convolution import CudaConvolution
from mri2qmap.operators.lane_convolution import LaneConvolution


def fused_convolution(
    kernels: torch.Tensor, scale: float = 1.0, spare_memory: bool = False
) -> LaneConvolution | CudaConvolution | None:
    """Return the fused convolution with kernels (p, p, p, pairs, z, y, x); None: torch has to do.

    That is the case on a GPU without CuPy, and on a CPU if a size has a large prime factor.

    Parameters
    ----------
    kernels
        Upper triangle of the Hermitian matrices, row by row.
    scale
        Factor of the kernels.
    spare_memory
        Whether to convolve coils one by one, which needs less memory and takes longer.
    """
    together = (1,) if spare_memory else ()
    if LaneConvolution.fits(tuple(kernels.shape[4:]), kernels.device):
        return LaneConvolution(kernels, scale, *together)
    if CudaConvolution.fits(kernels.device):
        return CudaConvolution(kernels, scale, *together)
    return None
