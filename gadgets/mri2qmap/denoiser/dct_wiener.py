"""Transform-domain denoising of all contrasts together (DCT Wiener filter), without training.

Overlapping cubes of voxels are transformed by the discrete cosine transform (DCT). The contrasts
are decorrelated within each cube. The coefficients are shrunk twice: first by hard thresholding,
then by the empirical Wiener filter derived from the first result. The signal of a smooth or
repetitive cube is concentrated in a few coefficients, while the noise is spread over all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.eigenvectors import hermitian_eigenvectors

_SMALL_EDGE, _LARGE_EDGE = 4, 8
#: Edge of the largest cubes [voxels]; the sides of images must be multiples of it.
LARGEST_CUBE = _LARGE_EDGE
#: Hard threshold in units of the noise level (2.7 in BM3D and BM4D).
_THRESHOLD = 3.0
#: Shape parameter of the Kaiser window that weights overlapping cubes, as in BM3D.
_KAISER_BETA = 2.0

#: Pilot coefficients (coefficients, images, cubes) and noise variance () -> gains, same shape.
_Gain = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def dct_wiener_filter(noisy: Tensor, sigma: Tensor) -> Tensor:
    """Remove white noise from the images of an object, using the edges that they share.

    Parameters
    ----------
    noisy : Tensor
        (batch, images, z, y, x) float32 with sides that are multiples of 8.
    sigma : Tensor
        (batch,) standard deviation of the noise.

    Returns
    -------
    Tensor
        (batch, images, z, y, x) the denoised images.

    Raises
    ------
    ValueError
        If the shape is not as above or a side is not a multiple of 8.

    Notes
    -----
    Two steps as in BM4D, except that each group consists of the contrasts of one cube instead of
    similar cubes: hard thresholding with cubes of 4 voxels, then the mean of the empirical Wiener
    filters with cubes of 4 and 8 voxels. The cubes form a body-centred lattice, half an edge apart
    along the axes.

    References
    ----------
    Maggioni et al., IEEE Trans Image Process 22:119 (2013).
    """
    if noisy.ndim != 5 or any(side % LARGEST_CUBE for side in noisy.shape[2:]):
        raise ValueError(
            f"images of shape {tuple(noisy.shape)}: expected (batch, images, z, y, x) with sides"
            f" that are multiples of {LARGEST_CUBE}"
        )
    with torch.autocast(noisy.device.type, enabled=False):
        return torch.stack([_denoise(*each) for each in zip(noisy, sigma**2, strict=True)])


def _denoise(noisy: Tensor, variance: Tensor) -> Tensor:
    """Denoise one object (images, z, y, x); rounding then does not depend on the batch."""
    pilot = _shrink_cubes(noisy, noisy, variance, _SMALL_EDGE, _threshold)
    fine, wide = (
        _shrink_cubes(noisy, pilot, variance, edge, _wiener) for edge in (_SMALL_EDGE, _LARGE_EDGE)
    )
    return (fine + wide) / 2


def _threshold(pilot: Tensor, variance: Tensor) -> Tensor:
    kept = pilot.square() > _THRESHOLD**2 * variance
    kept[0] = True  # always keep the mean (DC) coefficients
    return kept.float()


def _wiener(pilot: Tensor, variance: Tensor) -> Tensor:
    power = pilot.square()
    return power / (power + variance)


def _shrink_cubes(
    noisy: Tensor,
    pilot: Tensor,
    variance: Tensor,
    edge: int,
    gain_of: _Gain,
) -> Tensor:
    """Shrink the coefficients of overlapping cubes and average the results.

    Parameters
    ----------
    noisy, pilot : Tensor
        (images, z, y, x) the noisy images and the estimate that determines the gains.
    variance : Tensor
        () variance of the noise.
    edge : int
        Edge of the cubes [voxels].
    gain_of : callable
        Shrinkage rule, see :data:`_Gain`.

    Returns
    -------
    Tensor
        (images, z, y, x) mean over the cubes, weighted by the sparsity of their gains.
    """
    images = len(noisy)
    both = noisy if pilot is noisy else torch.cat([noisy, pilot])
    before, after = (
        math.ceil(7 * edge / 8),
        7 * edge // 8,
    )  # padding for complete cubes at every offset
    both = functional.pad(both, [before, after] * 3, mode="reflect")
    counts = [side // edge + 1 for side in noisy.shape[1:]]
    total = both.new_zeros(images + 1, *both.shape[1:])  # last channel: sum of the weights
    line, plane, window = _bases(edge, noisy.device)
    for start in _lattice(edge):
        raise_if_cancelled()
        part = (slice(None), *(slice(a, a + n * edge) for a, n in zip(start, counts, strict=True)))
        cubes = _cut(both[part], edge)  # (edge, edge^2, images or 2 images, cubes)
        coefficients = (plane @ (line @ cubes.flatten(1)).view(edge, edge**2, -1)).view(
            edge**3, len(both), -1
        )
        noisy_part, pilot_part = coefficients[:, :images], coefficients[:, -images:]
        axes = _principal_contrasts(pilot_part)
        gain = gain_of(_rotate(axes, pilot_part), variance)
        shrunk = _rotate(axes.transpose(0, 1), gain * _rotate(axes, noisy_part))
        restored = (line.T @ (plane.T @ shrunk.view(edge, edge**2, -1)).flatten(1)).view(
            edge, edge**2, images, -1
        )
        weights = window / gain.square().sum(dim=(0, 1)).clamp_min(1)
        weighted = torch.cat([restored * weights, weights], dim=2)
        total[part] += _join(weighted, counts)
    inner = total[..., before:-after, before:-after, before:-after]
    return inner[:images] / inner[images:]


def _principal_contrasts(coefficients: Tensor) -> Tensor:
    """Return the rotation (new, old image, cubes) that decorrelates the contrasts of each cube."""
    details = coefficients[1:]
    images = details.shape[1]
    pairs = itertools.product(range(images), repeat=2)
    gram = torch.stack([(details[:, i] * details[:, j]).sum(0) for i, j in pairs], dim=-1)
    gram = torch.unflatten(gram, -1, (images, images))
    _, axes = hermitian_eigenvectors(gram)
    return axes.permute(2, 1, 0).contiguous()


def _rotate(axes: Tensor, coefficients: Tensor) -> Tensor:
    """Rotate the images of each cube; with cubes last, much faster than batched 3x3 products."""
    rotated = torch.zeros_like(coefficients)
    for (new, old), weight in zip(
        itertools.product(range(len(axes)), repeat=2), axes.flatten(0, 1), strict=True
    ):
        rotated[:, new].addcmul_(weight, coefficients[:, old])
    return rotated


def _bases(edge: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the orthonormal DCT along a line and over a plane; the window (edge, edge^2, 1, 1)."""
    rates, places = torch.arange(edge)[:, None], torch.arange(edge)[None] + 0.5
    line = torch.cos(math.pi / edge * rates * places) * math.sqrt(2 / edge)
    line[0] /= math.sqrt(2)
    kaiser = torch.kaiser_window(edge, periodic=False, beta=_KAISER_BETA)
    window = kaiser[:, None] * torch.kron(kaiser, kaiser)
    return line.to(device), torch.kron(line, line).to(device), window[..., None, None].to(device)


def _lattice(edge: int) -> Iterator[tuple[int, ...]]:
    """Yield the first corner (z, y, x) of each tiling of the body-centred lattice of cubes."""
    for corner in (0, edge // 4):
        yield from itertools.product((corner, corner + edge // 2), repeat=3)


def _cut(images: Tensor, edge: int) -> Tensor:
    """Cut (c, z, y, x) into cubes (edge, edge^2, c, cubes)."""
    c, nz, ny, nx = images.shape
    cells = images.reshape(c, nz // edge, edge, ny // edge, edge, nx // edge, edge)
    return cells.permute(2, 4, 6, 0, 1, 3, 5).reshape(edge, edge**2, c, -1)


def _join(cubes: Tensor, counts: list[int]) -> Tensor:
    """Inverse of `_cut`."""
    edge, _, c, _ = cubes.shape
    cells = cubes.view(edge, edge, edge, c, *counts).permute(3, 4, 0, 5, 1, 6, 2)
    return cells.reshape(c, *(count * edge for count in counts))
