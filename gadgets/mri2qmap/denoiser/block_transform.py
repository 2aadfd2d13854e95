"""Transform-domain denoising of all contrasts together, for which nothing is trained.

Overlapping cubes of voxels are taken to cosine coefficients, contrasts are decorrelated in each
cube, and the coefficients are shrunk: first by a threshold, then by the Wiener filter that the
first result suggests. A smooth or repetitive cube then is a few large coefficients and the noise
spread over all of them. The U-Net starts from the result: it averages over wide areas at little
cost, for which a small network has too few layers, and the network sees what was lost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional

_THRESHOLD_EDGE, _WIENER_EDGE = 4, 8
#: What the sides of images must be multiples of.
LARGEST_CUBE = _WIENER_EDGE
#: Coefficients below this many noise levels are dropped (2.7 in BM3D and BM4D).
_THRESHOLD = 3.0
#: Shape of the Kaiser window by which overlapping cubes are weighted, as in BM3D.
_KAISER_BETA = 2.0

#: Noisy cubes, pilot cubes and variances -> shrunk cubes and the number of them that was kept
_Shrink = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def denoise_by_block_transform(noisy: Tensor, sigma: Tensor) -> Tensor:
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
        (batch, images, z, y, x) the restored images.

    Raises
    ------
    ValueError
        If a side is not a multiple of 8.

    Notes
    -----
    Two steps, as in BM4D (Maggioni et al., IEEE TIP 22:119, 2013), on cubes instead of groups of
    similar ones, with the contrasts as the group: a hard threshold on cubes of 4, then the
    empirical Wiener filter on cubes of 8. Cubes overlap by half.
    """
    if noisy.ndim != 5 or any(side % _WIENER_EDGE for side in noisy.shape[2:]):
        raise ValueError(
            f"images of shape {tuple(noisy.shape)}: expected (batch, images, z, y, x) with sides"
            f" that are multiples of {_WIENER_EDGE}"
        )
    variance = sigma**2
    with torch.autocast(noisy.device.type, enabled=False):
        pilot = _shrink_cubes(noisy, None, variance, _THRESHOLD_EDGE, _threshold)
        return _shrink_cubes(noisy, pilot, variance, _WIENER_EDGE, _wiener)


def _threshold(noisy: Tensor, pilot: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    kept = noisy.square() > _THRESHOLD**2 * variance
    kept[..., 0] = True  # the means
    return noisy * kept, kept.sum(dim=(1, 2))


def _wiener(noisy: Tensor, pilot: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    power = pilot.square()
    gain = power / (power + variance)
    return noisy * gain, gain.square().sum(dim=(1, 2))


def _shrink_cubes(
    noisy: Tensor, pilot: Tensor | None, variance: Tensor, edge: int, shrink: _Shrink
) -> Tensor:
    """Shrink the coefficients of overlapping cubes and average, the sparsest cubes most.

    Without a pilot the noisy images are their own.
    """
    batch, images = noisy.shape[:2]
    half = edge // 2
    both = noisy if pilot is None else torch.cat([noisy, pilot], dim=1)
    both = functional.pad(both, [half] * 6, mode="reflect")
    total = both.new_zeros(batch, images + 1, *both.shape[2:])  # the last: sum of the weights
    along_line, over_plane, window = _bases(edge, noisy.device)
    for part in _tilings(both.shape[2:], edge):
        cubes = _cut(both[part], edge)  # (batch, cubes, images or twice as many, edge, edge^2)
        coefficients = (along_line @ (cubes @ over_plane.T)).flatten(3).flatten(0, 1)
        noisy_cubes, pilot_cubes = coefficients[:, :images], coefficients[:, -images:]
        axes = _principal_contrasts(pilot_cubes)
        each = variance.repeat_interleave(cubes.shape[1])[:, None, None]
        shrunk, kept = shrink(axes @ noisy_cubes, axes @ pilot_cubes, each)
        restored = (axes.mT @ shrunk).unflatten(2, (edge, edge**2))
        restored = along_line.T @ (restored @ over_plane)
        weights = window / kept.clamp_min(1)[:, None, None, None]
        weighted = torch.cat([restored * weights, weights], dim=1).unflatten(0, (batch, -1))
        total[part] += _join(weighted, total[part].shape)
    inner = total[..., half:-half, half:-half, half:-half]
    return inner[:, :images] / inner[:, images:]


def _principal_contrasts(cubes: Tensor) -> Tensor:
    """Directions (cubes, images, images) in which the contrasts of each cube are uncorrelated."""
    details = cubes[..., 1:]
    return torch.linalg.eigh(details @ details.mT).eigenvectors.mT


def _bases(edge: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal cosines along a line and over a plane; the window as (1, edge, edge^2)."""
    rates, places = torch.arange(edge)[:, None], torch.arange(edge)[None] + 0.5
    line = torch.cos(math.pi / edge * rates * places) * math.sqrt(2 / edge)
    line[0] /= math.sqrt(2)
    kaiser = torch.kaiser_window(edge, periodic=False, beta=_KAISER_BETA)
    window = kaiser[:, None] * torch.kron(kaiser, kaiser)
    return line.to(device), torch.kron(line, line).to(device), window[None].to(device)


def _tilings(shape: Sequence[int], edge: int) -> Iterator[tuple[EllipsisType | slice, ...]]:
    """Parts of a volume with margins that are whole cubes; each voxel inside is in all eight."""
    half = edge // 2
    whole_or_inner = [(slice(0, side), slice(half, side - half)) for side in shape]
    for z, y, x in itertools.product(*whole_or_inner):
        yield ..., z, y, x


def _cut(images: Tensor, edge: int) -> Tensor:
    """(batch, c, z, y, x) -> (batch, cubes, c, edge, edge^2)."""
    batch, c, nz, ny, nx = images.shape
    cells = images.reshape(batch, c, nz // edge, edge, ny // edge, edge, nx // edge, edge)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, -1, c, edge, edge**2)


def _join(cubes: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `_cut`."""
    batch, c, nz, ny, nx = shape
    edge = cubes.shape[3]
    cells = cubes.reshape(batch, nz // edge, ny // edge, nx // edge, c, edge, edge, edge)
    return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(shape)
