"""Choice of the fused convolution for a device."""

from __future__ import annotations

import torch

from mri2qmap.operators.cuda_convolution import CudaConvolution
from mri2qmap.operators.lane_convolution import LaneConvolution


def fused_convolution(
    kernels: torch.Tensor, half_precision: bool = False
) -> LaneConvolution | CudaConvolution | None:
    """Return the fused convolution with kernels (p, p, p, pairs, z, y, x); None: torch has to do.

    That is the case on a GPU without CuPy, and on a CPU if a size has a large prime factor.

    Parameters
    ----------
    kernels
        Upper triangle of the Hermitian matrices, row by row.
    half_precision
        Whether to keep the kernels in half precision where this is possible, on a GPU.
    """
    if LaneConvolution.fits(tuple(kernels.shape[4:]), kernels.device):
        return LaneConvolution(kernels)
    if CudaConvolution.fits(kernels.device):
        return CudaConvolution(kernels, half_precision)
    return None
