"""Transform-domain denoising of all contrasts together, for which nothing is trained.

Overlapping cubes of voxels are taken to cosine coefficients, contrasts are decorrelated in each
cube, and the coefficients are shrunk: first by a threshold, then by the Wiener filter that the
first result suggests. A smooth or repetitive cube then is a few large coefficients and the noise
spread over all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

_SMALL_EDGE, _LARGE_EDGE = 4, 8
#: What the sides of images must be multiples of.
LARGEST_CUBE = _LARGE_EDGE
#: Coefficients below this many noise levels are dropped (2.7 in BM3D and BM4D).
_THRESHOLD = 3.0
#: Shape of the Kaiser window by which overlapping cubes are weighted, as in BM3D.
_KAISER_BETA = 2.0

#: Coefficients of the pilot (coefficients, images, cubes), variance of the noise -> gains
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
        (batch, images, z, y, x) the restored images.

    Raises
    ------
    ValueError
        If a side is not a multiple of 8.

    Notes
    -----
    Two steps, as in BM4D (Maggioni et al., IEEE TIP 22:119, 2013), on cubes instead of groups of
    similar ones, with the contrasts as the group: a hard threshold on cubes of 4, then the mean of
    the empirical Wiener filters on cubes of 4 and of 8. Cubes lie at the points of a body-centred
    lattice, half an edge apart along the axes.
    """
    if noisy.ndim != 5 or any(side % LARGEST_CUBE for side in noisy.shape[2:]):
        raise ValueError(
            f"images of shape {tuple(noisy.shape)}: expected (batch, images, z, y, x) with sides"
            f" that are multiples of {LARGEST_CUBE}"
        )
    with torch.autocast(noisy.device.type, enabled=False):
        return torch.stack([_denoise(*each) for each in zip(noisy, sigma**2, strict=True)])


def _denoise(noisy: Tensor, variance: Tensor) -> Tensor:
    """One object, so that rounding does not depend on what else is in the batch."""
    pilot = _shrink_cubes(noisy, noisy, variance, _SMALL_EDGE, _threshold)
    fine, wide = (
        _shrink_cubes(noisy, pilot, variance, edge, _wiener) for edge in (_SMALL_EDGE, _LARGE_EDGE)
    )
    return (fine + wide) / 2


def _threshold(pilot: Tensor, variance: Tensor) -> Tensor:
    kept = pilot.square() > _THRESHOLD**2 * variance
    kept[0] = True  # the means
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
    """Shrink the coefficients of overlapping cubes and average, the sparsest cubes most."""
    images = len(noisy)
    both = noisy if pilot is noisy else torch.cat([noisy, pilot])
    before, after = math.ceil(7 * edge / 8), 7 * edge // 8  # room for whole cubes at every offset
    both = functional.pad(both, [before, after] * 3, mode="reflect")
    counts = [side // edge + 1 for side in noisy.shape[1:]]
    total = both.new_zeros(images + 1, *both.shape[1:])  # the last: sum of the weights
    line, plane, window = _bases(edge, noisy.device)
    for start in _lattice(edge):
        part = (slice(None), *(slice(a, a + n * edge) for a, n in zip(start, counts, strict=True)))
        cubes = _cut(both[part], edge)  # (edge, edge^2, images or twice as many, cubes)
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
    """Directions (new, old image, cubes) in which the contrasts of each cube are uncorrelated."""
    details = coefficients[1:]
    images = details.shape[1]
    pairs = itertools.product(range(images), repeat=2)
    gram = torch.stack([(details[:, i] * details[:, j]).sum(0) for i, j in pairs], dim=-1)
    gram = gram.unflatten(-1, (images, images))
    return torch.linalg.eigh(gram).eigenvectors.permute(2, 1, 0).contiguous()


def _rotate(axes: Tensor, coefficients: Tensor) -> Tensor:
    """Combine the images of each cube: with cubes last, much faster than products of 3x3."""
    rotated = torch.zeros_like(coefficients)
    for (new, old), weight in zip(
        itertools.product(range(len(axes)), repeat=2), axes.flatten(0, 1), strict=True
    ):
        rotated[:, new].addcmul_(weight, coefficients[:, old])
    return rotated


def _bases(edge: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal cosines along a line and over a plane; the window as (edge, edge^2, 1, 1)."""
    rates, places = torch.arange(edge)[:, None], torch.arange(edge)[None] + 0.5
    line = torch.cos(math.pi / edge * rates * places) * math.sqrt(2 / edge)
    line[0] /= math.sqrt(2)
    kaiser = torch.kaiser_window(edge, periodic=False, beta=_KAISER_BETA)
    window = kaiser[:, None] * torch.kron(kaiser, kaiser)
    return line.to(device), torch.kron(line, line).to(device), window[..., None, None].to(device)


def _lattice(edge: int) -> Iterator[tuple[int, ...]]:
    """First corners (z, y, x) of the tilings whose cubes together lie on a body-centred lattice."""
    for corner in (0, edge // 4):
        yield from itertools.product((corner, corner + edge // 2), repeat=3)


def _cut(images: Tensor, edge: int) -> Tensor:
    """(c, z, y, x) -> (edge, edge^2, c, cubes)."""
    c, nz, ny, nx = images.shape
    cells = images.reshape(c, nz // edge, edge, ny // edge, edge, nx // edge, edge)
    return cells.permute(2, 4, 6, 0, 1, 3, 5).reshape(edge, edge**2, c, -1)


def _join(cubes: Tensor, counts: list[int]) -> Tensor:
    """Inverse of `_cut`."""
    edge, _, c, _ = cubes.shape
    cells = cubes.view(edge, edge, edge, c, *counts).permute(3, 4, 0, 5, 1, 6, 2)
    return cells.reshape(c, *(count * edge for count in counts))
