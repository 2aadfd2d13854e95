"""Non-local Wiener filter: groups of similar cubes, all contrasts together, with a guide image."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup

#: Radius of the search ball [voxels] and number of cubes in a group.
_REACH, _GROUP = 8, 48
#: Factor on the variances of the guide, which are smaller than those of the true images.
_VARIANCE_FACTOR = 1.2
#: Number of groups filtered at a time, on a CPU few that fit into its cache, and of distances
#: between cubes in memory at a time; by kind of device.
_AT_ONCE, _DISTANCES = {"cpu": 128, "cuda": 1024}, {"cpu": 2**24, "cuda": 2**26}
#: Number of groups whose distances are sorted at a time.
_SORTED = 1024
#: Padding value; it makes cubes outside the volume dissimilar to all cubes inside.
_OUTSIDE = math.inf
#: Minimum side of a volume and maximum edge of a cube: the search ball around a corner of the
#: volume then holds enough cubes for a group.
MIN_SIDE, _MAX_EDGE = 8, 4
#: Smallest variance of the noise in units of the energy of a group's details.
_LEAST_RIDGE = 1e-5


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
    if noisy.shape != guide.shape or noisy.ndim != 5:
        raise ValueError(
            f"images of shape {tuple(noisy.shape)}, guide {tuple(guide.shape)}: expected (batch,"
            f" images, z, y, x) for both, with sides of at least {MIN_SIDE}"
        )
    filters = (
        GuidedWiener(each, float(level), edge, stride)
        for each, level in zip(guide, sigma, strict=True)
    )
    return torch.stack([restore(each) for restore, each in zip(filters, noisy, strict=True)])


class GuidedWiener:
    """The filter of :func:`nonlocal_wiener_filter` for images of one object with one guide.

    The search for similar cubes, which takes most of the time, is done once. With the guide fixed,
    the filter is an affine function of the noisy images.

    Parameters
    ----------
    guide : Tensor
        (images, z, y, x) float32 estimate of the images; sides of at least 8.
    sigma : float
        Standard deviation of the noise, positive.
    edge, stride : int
        See :func:`nonlocal_wiener_filter`.
    mean_share : float
        Share of the noisy images in the means of groups, 0 to 1; the rest is that of the guide
        (default 0). Means of 48 noisy cubes contain little noise, and not the bias of the guide.
    processes : ProcessGroup, optional
        Each of several processes filters some of the groups, and all get the whole images.

    Raises
    ------
    ValueError
        If the guide has another shape or a short side, or edge or stride is out of range.
    """

    @torch.no_grad()
    def __init__(
        self,
        guide: Tensor,
        sigma: float,
        edge: int,
        stride: int | None = None,
        mean_share: float = 0.0,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        stride = edge if stride is None else stride
        if guide.ndim != 4 or min(guide.shape[1:]) < MIN_SIDE:
            raise ValueError(
                f"guide of shape {tuple(guide.shape)}: expected (images, z, y, x) with sides of at"
                f" least {MIN_SIDE}"
            )
        if not 1 <= edge <= _MAX_EDGE:
            raise ValueError(f"edge {edge}: expected 1 to {_MAX_EDGE}")
        if not 1 <= stride <= edge:
            raise ValueError(f"stride {stride}: expected 1 to the edge, {edge}")
        self._guide = guide
        self._ridge = sigma**2 * _GROUP / _VARIANCE_FACTOR
        self._mean_share = mean_share
        self._processes = processes
        _, _, ny, nx = guide.shape
        steps = torch.tensor([ny * nx, nx, 1], device=guide.device)
        edges = [torch.arange(edge, device=guide.device)] * 3
        self._within = torch.cartesian_prod(*edges) @ steps
        with torch.autocast(guide.device.type, enabled=False):
            self._groups = _groups(guide, edge, stride, steps, processes)

    @torch.no_grad()
    def __call__(self, noisy: Tensor) -> Tensor:
        """Remove the noise of images of the shape of the guide.

        Raises
        ------
        ValueError
            If the shape is another one.
        """
        if noisy.shape != self._guide.shape:
            raise ValueError(
                f"images of shape {tuple(noisy.shape)}: expected that of the guide,"
                f" {tuple(self._guide.shape)}"
            )
        images = len(noisy)
        at_once = _AT_ONCE[noisy.device.type]
        values = torch.cat([noisy, self._guide]).flatten(1)
        total = torch.zeros_like(values[: images + 1])  # last channel: sum of the weights
        with torch.autocast(noisy.device.type, enabled=False):
            for corners in torch.split(self._groups, at_once):
                raise_if_cancelled()
                voxels = corners[..., None] + self._within  # (groups, cubes, voxels of a cube)
                cubes = values[:, voxels].permute(1, 2, 0, 3)
                restored, weight = self._restore(*torch.split(cubes, images, dim=2))
                weights = weight[:, None, None].expand(voxels.shape)
                weighted = torch.cat([restored * weights[:, :, None], weights[:, :, None]], dim=2)
                total.index_add_(1, voxels.flatten(), weighted.permute(2, 0, 1, 3).flatten(1))
        self._processes.sum_(total)
        return (total[:-1] / total[-1]).view_as(noisy)

    def _restore(self, noisy: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Restore groups of cubes (groups, cubes, images, voxels); also return their weights."""
        given, guiding = noisy.flatten(2), guide.flatten(2)
        mean = guiding.mean(1, keepdim=True)
        details = guiding - mean
        if self._mean_share:
            mean = torch.lerp(mean, given.mean(1, keepdim=True), self._mean_share)
        covariance = details @ details.mT
        # Single precision does not suffice for the inverse if the noise is much weaker.
        energy = covariance.diagonal(dim1=1, dim2=2).sum(1)
        ridge = (_LEAST_RIDGE * energy).clamp_min(self._ridge)[:, None, None]
        identity = torch.eye(_GROUP, device=guide.device)
        inverse = torch.linalg.inv_ex(covariance + ridge * identity).inverse
        gains = (given - mean) @ details.mT @ inverse
        restored = (mean + gains @ details).view_as(noisy)
        return restored, 1 / (1 + (identity - ridge * inverse).square().sum((1, 2)))


def _groups(
    guide: Tensor, edge: int, stride: int, steps: Tensor, processes: ProcessGroup
) -> Tensor:
    """Find the cubes most similar to each reference cube of this process.

    Returns
    -------
    Tensor
        (groups, cubes) flat index of the first voxel of each cube. The reference cubes of all
        processes cover the volume; each is the first cube of its group.
    """
    device = guide.device
    ends = [n - edge for n in guide.shape[1:]]
    lines = [torch.tensor(sorted({*range(0, end, stride), end}), device=device) for end in ends]
    lines[0] = lines[0][processes.share(len(lines[0]))]
    if not len(lines[0]):
        return steps.new_empty(0, _GROUP)
    wide = functional.pad(guide, [_REACH] * 6, value=_OUTSIDE)
    offsets = [
        offset
        for offset in itertools.product(range(-_REACH, _REACH + 1), repeat=3)
        if math.hypot(*offset) <= _REACH
    ]
    together = _DISTANCES[device.type]
    per_plane = len(offsets) * len(lines[1]) * len(lines[2])
    nearest = torch.cat(
        [
            _nearest(guide, wide, [planes, *lines[1:]], offsets, edge)
            for planes in torch.split(lines[0], max(1, together // per_plane))
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
            for part in torch.split(distances, _SORTED, dim=1)
        ]
    )
