"""Density compensation for reconstruction by the adjoint alone."""

from __future__ import annotations

import torch

from mri2qmap.operators.nufft import Nufft


def density_compensation(
    trajectory: torch.Tensor,
    shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
    iterations: int = 10,
) -> torch.Tensor:
    """Weights that even out the density of samples.

    The fixed point of ``w <- w / |A A^H w|``, in which A A^H smooths the weights over the width
    of a k-space sample.

    Parameters
    ----------
    trajectory
        Sample positions (samples, 3), columns kx, ky, kz [cycles/voxel].
    shape
        Image voxels (z, y, x).
    device
        Where to work.
    iterations
        Rounds of the fixed-point iteration.

    Returns
    -------
        Weights (samples,) float32, such that the adjoint of weighted samples of an image has the
        intensity of the image.

    References
    ----------
    Pipe and Menon, Magn Reson Med 41:179 (1999).
    """
    nufft = Nufft(trajectory, shape, device)
    weights = torch.ones(len(trajectory), device=device)
    for _ in range(iterations):
        smoothed = nufft.forward(nufft.adjoint(weights.to(torch.complex64)))
        weights = weights / smoothed.abs().clamp_min(1e-6 * float(smoothed.abs().max()))
    return weights
