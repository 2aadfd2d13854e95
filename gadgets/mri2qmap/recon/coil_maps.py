"""Coil sensitivities from the low frequencies of the scan itself.

The centre of k-space of all frames is solved, coil by coil, for a small subspace TSMI: a
least-squares solve needs no density compensation, and the images of all coefficients share their
sensitivities. The channel covariances are averaged over a neighbourhood, and the eigenvector of the
largest eigenvalue is the sensitivity (Walsh). Walsh's method is used rather than ESPIRiT, because
the calibration data are a few low-resolution images without Cartesian k-space; it takes a few lines
of PyTorch on the device of the data.
"""

from __future__ import annotations

import math

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.eigenvectors import hermitian_eigenvectors
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.recon.conjugate_gradient import conjugate_gradient

BACKGROUND_SHARE = 1e-3
"""Weight of the far neighbourhood in each covariance; it determines the maps outside the object."""
CALIBRATION_CONTRASTS = 3
"""Coefficients of the calibration images, sufficient to distinguish contrasts; the higher ones are
mostly noise."""
CALIBRATION_RESOLUTION = 0.006
"""Default voxel size of the calibration images [m]."""
_TOGETHER = 2**22
"""Elements of the covariance matrices of all voxels that are computed or decomposed together."""


def calibration_shape(
    shape: tuple[int, int, int], voxel_size: tuple[float, float, float], resolution: float
) -> tuple[int, int, int]:
    """Even number of voxels (z, y, x) of calibration images, not finer than the scan.

    Parameters
    ----------
    shape
        Voxels of the scan (z, y, x).
    voxel_size
        Their edges (z, y, x), in the unit of `resolution`.
    resolution
        Voxel size of the calibration images.
    """
    z, y, x = (
        min(n - n % 2, max(8, 2 * round(n * size / resolution / 2)))
        for n, size in zip(shape, voxel_size, strict=True)
    )
    return z, y, x


def calibration_bytes(n_coils: int, calibration_voxels: int) -> int:
    """Estimate the memory of `calibration_images` and `walsh_maps` together [bytes]."""
    covariances = n_coils**2 * 8 * calibration_voxels
    images = n_coils * CALIBRATION_CONTRASTS * 8 * calibration_voxels
    return covariances + 7 * images


def calibration_images(
    kspace: torch.Tensor,
    trajectory: torch.Tensor,
    frames: torch.Tensor,
    basis: torch.Tensor,
    shape: tuple[int, int, int],
    calibration_shape: tuple[int, int, int],
    iterations: int = 15,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> torch.Tensor:
    """Low-resolution TSMI of each coil.

    Parameters
    ----------
    kspace
        Samples (c, samples).
    trajectory
        Positions (samples, 3), columns kx, ky, kz [cycles/voxel].
    frames
        Time frame of each sample (samples,).
    basis
        Temporal subspace (frames, s).
    shape, calibration_shape
        Voxels (z, y, x) of the scan and of the calibration images, over the same field of view.
    iterations
        Conjugate-gradient steps; few steps regularise the solution.
    processes
        Each of several processes computes the images of some coils, and all get those of all.

    Returns
    -------
        Images (c, s, z, y, x) of the calibration shape, Hann-weighted in k-space.

    Raises
    ------
    ValueError
        If no sample lies within the calibration region.
    """
    device = kspace.device
    zoom = torch.tensor(
        [n / m for n, m in zip(shape[::-1], calibration_shape[::-1], strict=True)], device=device
    )
    coarse = trajectory * zoom  # cycles per calibration voxel
    radius = coarse.norm(dim=1)
    central = radius < 0.5
    if not bool(central.any()):
        raise ValueError("no sample lies within the calibration region")
    coarse, frames, radius = coarse[central], frames[central], radius[central]
    sampling = SubspaceSampling(coarse, frames, basis, calibration_shape, device=device)
    gram = sampling.toeplitz_gram()
    images = torch.zeros(len(kspace), *sampling.domain_shape, dtype=torch.complex64, device=device)
    own = processes.share(len(kspace))
    for image, samples in zip(images[own], kspace[own, central], strict=True):
        solution, _ = conjugate_gradient(
            gram, sampling.H @ samples[None], max_iterations=iterations, tolerance=1e-3
        )
        image.copy_(solution)
    return _hann_filter(processes.sum_(images))


def walsh_maps(images: torch.Tensor, neighbourhood: int = 5) -> torch.Tensor:
    """Sensitivities from coil images of any number of contrasts.

    Parameters
    ----------
    images
        Coil images (c, contrasts, z, y, x).
    neighbourhood
        Edge length of the cube over which covariances are averaged, odd [voxels].

    Returns
    -------
        Maps (c, z, y, x) of unit root-sum-of-squares, relative to the phase of the first coil.

    References
    ----------
    Walsh, Gmitro and Marcellin, Magn Reson Med 43:682 (2000).
    """
    n_coils, shape = len(images), images.shape[2:]
    voxels = math.prod(shape)
    # Eigenvectors of large or small matrices are rounded differently; the unit must not matter.
    images = images / torch.view_as_real(images).abs().max().clamp_min(1e-37)
    matrices = images.new_empty(voxels, n_coils, n_coils)
    padded = voxels * (1 + 4 * neighbourhood / min(shape))
    together = max(1, int(_TOGETHER // (n_coils * padded)))
    for first in range(0, n_coils, together):
        count = min(first + together, n_coils)
        rows = slice(first, count)  # up to the diagonal: the matrices are Hermitian
        raise_if_cancelled()
        products = torch.einsum("akzyx,bkzyx->abzyx", images[rows], images[:count].conj())
        near = _box_mean(products.flatten(0, 1), neighbourhood)
        # Without signal, the wide neighbourhood determines the maps and continues them smoothly.
        far = _box_mean(_box_mean(near, 4 * neighbourhood + 1), 4 * neighbourhood + 1)
        block = near.add_(far, alpha=BACKGROUND_SHARE).reshape(-1, count, voxels).permute(2, 0, 1)
        matrices[:, rows, :count] = block
        matrices[:, :count, rows] = block.mH
    maps = images.new_empty(n_coils, voxels)
    together = max(1, _TOGETHER // n_coils**2)
    for start in range(0, voxels, together):
        part = slice(start, start + together)
        _, vectors = hermitian_eigenvectors(matrices[part])
        maps[:, part] = vectors[:, :, -1].T
    maps = maps.reshape(n_coils, *shape)
    return maps * torch.polar(torch.ones_like(maps[:1].abs()), -maps[:1].angle())


def resize_maps(maps: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Interpolate maps (c, z, y, x) linearly to another grid over the same field of view.

    Grids share the position of voxel ``n // 2``. The result has unit root-sum-of-squares.
    """
    z, y, x = (
        _interpolation_matrix(n, m, maps.device).to(maps.dtype)
        for n, m in zip(shape, maps.shape[1:], strict=True)
    )
    resized = maps.new_empty(len(maps), *shape)
    energy = torch.zeros(shape, device=maps.device)
    for fine, coarse in zip(resized, maps, strict=True):
        raise_if_cancelled()
        fine.copy_(torch.tensordot(z, y @ coarse, 1) @ x.T)
        energy += fine.real**2 + fine.imag**2
    return resized.div_(energy.sqrt_().clamp_min_(1e-12))


def _interpolation_matrix(n: int, m: int, device: torch.device) -> torch.Tensor:
    """Matrix (n, m) of linear interpolation, constant beyond the outer voxels."""
    index = (torch.arange(n, device=device) - n // 2) * (m / n) + m // 2
    distance = index.clamp(0, m - 1)[:, None] - torch.arange(m, device=device)
    return (1 - distance.abs()).clamp_min(0)


def _hann_filter(images: torch.Tensor) -> torch.Tensor:
    """Taper k-space towards its edge, to suppress ringing that would enter the sensitivities.

    The images (c, s, z, y, x) are overwritten. They are extended by zeros: periodic images, which a
    Fourier transform assumes, would mix opposite ends of an object that fills the field of view.
    """
    axes = (-3, -2, -1)
    extended = [2 * n for n in images.shape[-3:]]
    squares = [torch.fft.fftfreq(n, device=images.device).square() * 4 for n in extended]
    radius = (squares[0][:, None, None] + squares[1][:, None] + squares[2]).sqrt().clamp(max=1)
    window = torch.cos(torch.pi / 2 * radius).square()
    nz, ny, nx = images.shape[-3:]
    for image in images:
        spectrum = torch.fft.fftn(image, s=extended, dim=axes).mul_(window)
        image.copy_(torch.fft.ifftn(spectrum, dim=axes)[:, :nz, :ny, :nx])
    return images


def _box_mean(volumes: torch.Tensor, edge: int) -> torch.Tensor:
    """Mean over a cube around each voxel of complex volumes (n, z, y, x), edges replicated."""
    parts = torch.cat([volumes.real, volumes.imag])[:, None]
    for axis in range(3):
        raise_if_cancelled()
        window = [1, 1, 1]
        window[axis] = edge
        pad = [0] * 6
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = edge // 2
        parts = torch.nn.functional.avg_pool3d(
            torch.nn.functional.pad(parts, pad, mode="replicate"), window, stride=1
        )
    real, imaginary = parts[:, 0].chunk(2)
    return torch.complex(real.contiguous(), imaginary.contiguous())
