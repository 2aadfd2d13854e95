"""Wiener filtering of groups of similar cubes, all contrasts together, with a good guide."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

#: How far away similar cubes are looked for [voxels], and how many make a group.
_REACH, _GROUP = 8, 48
#: A guide varies less than the truth does: factor on its variances.
_VARIANCE_LOST = 1.2
#: Groups treated together, and distances between cubes held at a time.
_AT_ONCE, _DISTANCES = 1024, 2**26
#: Value that makes no cube outside a volume similar to one inside.
_OUTSIDE = 1e4
#: Least side of a volume, for the largest edge of cubes: as many of them lie within reach of a
#: corner as make a group.
_LEAST_SIDE, _LARGEST_EDGE = 8, 4


@torch.no_grad()
def nonlocal_wiener_filter(
    noisy: Tensor, guide: Tensor, sigma: Tensor, edge: int, stride: int | None = None
) -> Tensor:
    """Remove white noise from cubes of voxels as if similar ones were draws of one Gaussian.

    Parameters
    ----------
    noisy : Tensor
        (batch, images, z, y, x) float32 images with white noise; sides of 8 or more.
    guide : Tensor
        (batch, images, z, y, x) an estimate of the images, which says which cubes are similar and
        how these vary.
    sigma : Tensor
        (batch,) standard deviation of the noise, positive.
    edge : int
        Of the cubes [voxels], 1 to 4: small ones adapt to detail, large ones see more of it.
    stride : int, optional
        Between the cubes that similar ones are looked for to [voxels], 1 to the edge (default):
        with half the edge, more is averaged, in about four times the time.

    Returns
    -------
    Tensor
        (batch, images, z, y, x) the restored images.

    Raises
    ------
    ValueError
        If the shapes differ, a side is too short, or edge or stride is out of range.

    Notes
    -----
    The second step of non-local Bayes (Lebrun, Buades, Morel, SIAM J Imaging Sci 6:1665, 2013), for
    cubes that hold all contrasts: with mean m and covariance C of the guide's cubes, each noisy
    cube y of a group becomes m + C (C + sigma^2)^-1 (y - m). It is computed in the space of the
    group, which has fewer dimensions than the cubes. What several cubes say of a voxel is averaged.
    """
    if noisy.shape != guide.shape or noisy.ndim != 5 or min(noisy.shape[2:]) < _LEAST_SIDE:
        raise ValueError(
            f"images of shape {tuple(noisy.shape)}, guide {tuple(guide.shape)}: expected (batch,"
            f" images, z, y, x) for both, with sides of at least {_LEAST_SIDE}"
        )
    if not 1 <= edge <= _LARGEST_EDGE:
        raise ValueError(f"edge {edge}: expected 1 to {_LARGEST_EDGE}")
    stride = edge if stride is None else stride
    if not 1 <= stride <= edge:
        raise ValueError(f"stride {stride}: expected 1 to the edge, {edge}")
    with torch.autocast(noisy.device.type, enabled=False):
        return torch.stack(
            [_filter(*each, edge, stride) for each in zip(noisy, guide, sigma**2, strict=True)]
        )


def _filter(noisy: Tensor, guide: Tensor, variance: Tensor, edge: int, stride: int) -> Tensor:
    """One object: noisy and guide (images, z, y, x)."""
    images, _, ny, nx = noisy.shape
    steps = torch.tensor([ny * nx, nx, 1], device=noisy.device)
    within = torch.cartesian_prod(*[torch.arange(edge, device=noisy.device)] * 3) @ steps
    values = torch.cat([noisy, guide]).flatten(1)
    total = torch.zeros_like(values[: images + 1])  # the last: sum of the weights
    ridge = variance * _GROUP / _VARIANCE_LOST
    identity = torch.eye(_GROUP, device=noisy.device)
    for corners in _groups(guide, edge, stride, steps).split(_AT_ONCE):
        voxels = corners[..., None] + within  # (groups, cubes, voxels of a cube)
        cubes = values[:, voxels].permute(1, 2, 0, 3)
        given, guiding = (part.flatten(2) for part in cubes.split(images, dim=2))
        mean = guiding.mean(1, keepdim=True)
        details = guiding - mean
        inverse = torch.linalg.inv_ex(details @ details.mT + ridge * identity).inverse
        gains = (given - mean) @ details.mT @ inverse
        restored = (mean + gains @ details).unflatten(2, (images, -1))
        weight = 1 / (1 + (identity - ridge * inverse).square().sum((1, 2)))
        weights = weight[:, None, None].expand(voxels.shape)
        weighted = torch.cat([restored * weights[:, :, None], weights[:, :, None]], dim=2)
        total.index_add_(1, voxels.flatten(), weighted.permute(2, 0, 1, 3).flatten(1))
    return (total[:-1] / total[-1]).view_as(noisy)


def _groups(guide: Tensor, edge: int, stride: int, steps: Tensor) -> Tensor:
    """First voxels (groups, cubes), as flat indices, of the cubes most similar to those on a grid.

    Those on the grid cover the volume; each is the first of its group.
    """
    device = guide.device
    ends = [n - edge for n in guide.shape[1:]]
    lines = [torch.tensor(sorted({*range(0, end, stride), end}), device=device) for end in ends]
    wide = functional.pad(guide, [_REACH] * 6, value=_OUTSIDE)
    offsets = [
        offset
        for offset in itertools.product(range(-_REACH, _REACH + 1), repeat=3)
        if math.hypot(*offset) <= _REACH
    ]
    per_plane = len(offsets) * len(lines[1]) * len(lines[2])
    nearest = torch.cat(
        [
            _nearest(guide, wide, [planes, *lines[1:]], offsets, edge)
            for planes in lines[0].split(max(1, _DISTANCES // per_plane))
        ]
    )
    first = torch.cartesian_prod(*lines) @ steps
    return first[:, None] + (torch.tensor(offsets, device=device) @ steps)[nearest]


def _nearest(
    guide: Tensor,
    wide: Tensor,
    lines: list[Tensor],
    offsets: list[tuple[int, ...]],
    edge: int,
) -> Tensor:
    """Which offsets (groups, cubes) lead from the cubes on these lines to the most similar ones."""
    top, bottom = int(lines[0][0]), int(lines[0][-1]) + edge
    slab = guide[:, top:bottom]
    lines = [lines[0] - top, *lines[1:]]
    distances = guide.new_empty(len(offsets), math.prod(len(line) for line in lines))
    starts = (_REACH + top, _REACH, _REACH)
    for row, offset in zip(distances, offsets, strict=True):
        there = (
            slice(start + o, start + o + n)
            for start, o, n in zip(starts, offset, slab.shape[1:], strict=True)
        )
        difference = (slab - wide[(slice(None), *there)]).square_().sum(0)
        for axis, line in enumerate(lines):
            parts = [difference.index_select(axis, line + i) for i in range(edge)]
            difference = torch.stack(parts).sum(0)
        row.copy_(difference.flatten())
    distances[offsets.index((0, 0, 0))] = -1  # itself, also where many are the same
    return torch.cat(
        [
            part.T.contiguous().topk(_GROUP, largest=False).indices
            for part in distances.split(_AT_ONCE, dim=1)
        ]
    )
