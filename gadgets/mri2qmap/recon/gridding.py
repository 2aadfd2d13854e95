"""Density compensation for reconstruction by the adjoint alone."""

from __future__ import annotations

import math

import torch

from mri2qmap.operators.nufft import Nufft


def density_compensation(
    trajectory: torch.Tensor,
    shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
    iterations: int = 5,
) -> torch.Tensor:
    """Weights that compensate the density of samples.

    The fixed point of ``w <- w / (C w)``, where C sums the weights around each sample with a kernel
    as wide as one sample of the Cartesian k-space of the image. The kernel is a squared sinc, the
    transform of a triangle: the iteration converges for positive kernels only.

    Parameters
    ----------
    trajectory
        Sample positions (samples, 3), columns kx, ky, kz [cycles/voxel].
    shape
        Image voxels (z, y, x).
    device
        Device of the computation.
    iterations
        Number of fixed-point iterations.

    Returns
    -------
        Weights (samples,) float32, with which the adjoint of the weighted samples of an image has
        the intensity of the image.

    References
    ----------
    Pipe and Menon, Magn Reson Med 41:179 (1999).
    """
    nufft = Nufft(trajectory, shape, device)
    z, y, x = (1 - (torch.arange(n, device=device) - n // 2).abs() / (n // 2 + 1) for n in shape)
    triangle = z[:, None, None] * y[:, None] * x
    weights = _shell_weights(trajectory.to(device), shape)
    for _ in range(iterations):
        smoothed = (nufft @ (triangle * (nufft.H @ weights.to(torch.complex64)))).real
        weights = weights / smoothed.clamp_min(1e-6 * float(smoothed.max()))
    return weights


def _shell_weights(trajectory: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Volume of each sample in units of a Cartesian k-space sample, for a radial density."""
    radius = trajectory.norm(dim=1)
    n_shells = max(shape)
    edges = torch.linspace(0, float(radius.max()) * (1 + 1e-6), n_shells + 1, device=radius.device)
    volume = 4 / 3 * math.pi * (edges[1:] ** 3 - edges[:-1] ** 3) * math.prod(shape)
    shell = torch.bucketize(radius, edges[1:-1])
    return (volume / torch.bincount(shell, minlength=n_shells).clamp_min(1))[shell]
