"""Non-local Wiener filter: groups of similar cubes, all contrasts together, with a guide image."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from mri2qmap.machine.cancellation import raise_if_cancelled

#: Radius of the search ball [voxels] and number of cubes in a group.
_REACH, _GROUP = 8, 48
#: Factor on the variances of the guide, which are smaller than those of the true images.
_VARIANCE_FACTOR = 1.2
#: Number of groups filtered at a time, and of distances between cubes in memory at a time.
_AT_ONCE, _DISTANCES = 1024, 2**26
#: Padding value; it makes cubes outside the volume dissimilar to all cubes inside.
_OUTSIDE = 1e4
#: Minimum side of a volume and maximum edge of a cube: the search ball around a corner of the
#: volume then holds enough cubes for a group.
_MIN_SIDE, _MAX_EDGE = 8, 4


@torch.no_grad()
def nonlocal_wiener_filter(
    noisy: Tensor, guide: Tensor, sigma: Tensor, edge: int, stride: int | None = None
) -> Tensor:
    """Remove white noise from cubes of voxels; groups of similar cubes are modelled as Gaussian.

    Parameters
    ----------
    noisy : Tensor
        (batch, images, z, y, x) float32 images with white noise; sides of at least 8.
    guide : Tensor
        (batch, images, z, y, x) estimate of the images. It determines which cubes are similar, and
        their mean and covariance.
    sigma : Tensor
        (batch,) standard deviation of the noise, positive.
    edge : int
        Edge of the cubes [voxels], 1 to 4. Small cubes adapt to detail, large cubes use more
        context.
    stride : int, optional
        Distance between reference cubes [voxels], 1 to ``edge`` (default ``edge``). With half the
        edge, more estimates are averaged, in about four times the time.

    Returns
    -------
    Tensor
        (batch, images, z, y, x) the denoised images.

    Raises
    ------
    ValueError
        If the shapes differ, a side is too short, or edge or stride is out of range.

    Notes
    -----
    This is the second step of non-local Bayes for cubes that hold all contrasts. With mean m and
    covariance C of the guide's cubes, each noisy cube y of a group becomes m + C (C + sigma^2)^-1
    (y - m). The filter is evaluated in the space of the group, which has fewer dimensions than the
    cubes. Overlapping estimates of a voxel are averaged.

    References
    ----------
    Lebrun, Buades, Morel, SIAM J Imaging Sci 6:1665 (2013).
    """
    if noisy.shape != guide.shape or noisy.ndim != 5 or min(noisy.shape[2:]) < _MIN_SIDE:
        raise ValueError(
            f"images of shape {tuple(noisy.shape)}, guide {tuple(guide.shape)}: expected (batch,"
            f" images, z, y, x) for both, with sides of at least {_MIN_SIDE}"
        )
    if not 1 <= edge <= _MAX_EDGE:
        raise ValueError(f"edge {edge}: expected 1 to {_MAX_EDGE}")
    stride = edge if stride is None else stride
    if not 1 <= stride <= edge:
        raise ValueError(f"stride {stride}: expected 1 to the edge, {edge}")
    with torch.autocast(noisy.device.type, enabled=False):
        return torch.stack(
            [_filter(*each, edge, stride) for each in zip(noisy, guide, sigma**2, strict=True)]
        )


def _filter(noisy: Tensor, guide: Tensor, variance: Tensor, edge: int, stride: int) -> Tensor:
    """Filter one object; noisy and guide are (images, z, y, x)."""
    images, _, ny, nx = noisy.shape
    steps = torch.tensor([ny * nx, nx, 1], device=noisy.device)
    within = torch.cartesian_prod(*[torch.arange(edge, device=noisy.device)] * 3) @ steps
    values = torch.cat([noisy, guide]).flatten(1)
    total = torch.zeros_like(values[: images + 1])  # last channel: sum of the weights
    ridge = variance * _GROUP / _VARIANCE_FACTOR
    identity = torch.eye(_GROUP, device=noisy.device)
    for corners in torch.split(_groups(guide, edge, stride, steps), _AT_ONCE):
        raise_if_cancelled()
        voxels = corners[..., None] + within  # (groups, cubes, voxels of a cube)
        cubes = values[:, voxels].permute(1, 2, 0, 3)
        given, guiding = (part.flatten(2) for part in torch.split(cubes, images, dim=2))
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
    """Find the cubes most similar to each reference cube.

    Returns
    -------
    Tensor
        (groups, cubes) flat index of the first voxel of each cube. The reference cubes cover the
        volume; each is the first cube of its group.
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
            for planes in torch.split(lines[0], max(1, _DISTANCES // per_plane))
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
    """Return the offsets from reference cubes to their most similar cubes.

    Parameters
    ----------
    guide, wide : Tensor
        (images, z, y, x) the guide, and the guide padded by the search radius.
    lines : list of Tensor
        First indices of the reference cubes along z, y and x.
    offsets : list of (int, int, int)
        Offsets (z, y, x) of the search ball [voxels].
    edge : int
        Edge of the cubes [voxels].

    Returns
    -------
    Tensor
        (groups, cubes) indices into ``offsets``.
    """
    top, bottom = int(lines[0][0]), int(lines[0][-1]) + edge
    slab = guide[:, top:bottom]
    lines = [lines[0] - top, *lines[1:]]
    distances = guide.new_empty(len(offsets), math.prod(len(line) for line in lines))
    starts = (_REACH + top, _REACH, _REACH)
    for row, offset in zip(distances, offsets, strict=True):
        raise_if_cancelled()
        there = (
            slice(start + o, start + o + n)
            for start, o, n in zip(starts, offset, slab.shape[1:], strict=True)
        )
        difference = (slab - wide[(slice(None), *there)]).square_().sum(0)
        for axis, line in enumerate(lines):
            parts = [difference.index_select(axis, line + i) for i in range(edge)]
            difference = torch.stack(parts).sum(0)
        row.copy_(difference.flatten())
    distances[
        offsets.index((0, 0, 0))
    ] = -1  # the reference cube itself first, also among identical cubes
    return torch.cat(
        [
            part.T.contiguous().topk(_GROUP, largest=False).indices
            for part in torch.split(distances, _AT_ONCE, dim=1)
        ]
    )
