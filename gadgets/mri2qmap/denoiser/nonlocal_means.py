"""Non-local means of all contrasts together, with weights from a guide image of low noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional

from mri2qmap.machine.cancellation import raise_if_cancelled

#: Radius of the search ball [voxels].
_REACH = 6
#: Squared difference of guide features, per image and in units of the noise variance, from which
#: the weight of a voxel is zero.
_REJECTED = 0.8
#: Weight of the differences of local means (3x3x3) relative to those of single voxels.
_NEIGHBOURHOOD = 0.7

_Part = tuple[EllipsisType | slice, ...]


@torch.no_grad()
def nonlocal_means(noisy: Tensor, guide: Tensor, sigma: Tensor) -> Tensor:
    """Average every voxel with the voxels around it that are similar in all images of the guide.

    Parameters
    ----------
    noisy : Tensor
        (batch, images, z, y, x) float32 images with white noise.
    guide : Tensor
        (batch, images, z, y, x) estimate of the images, from which similarity is computed.
    sigma : Tensor
        (batch,) standard deviation of the noise.

    Returns
    -------
    Tensor
        (batch, images, z, y, x) weighted means of the noisy images.

    Notes
    -----
    Pre-filtered rotation-invariant non-local means: the features are the voxel and the mean of its
    neighbourhood. All contrasts are compared at once, which makes accidental matches rare. The
    search region is a ball; each pair of voxels is visited once.

    References
    ----------
    Manjon et al., Med Image Anal 16:18 (2012).
    """
    with torch.autocast(noisy.device.type, enabled=False):
        around = functional.avg_pool3d(functional.pad(guide, [1] * 6, mode="replicate"), 3, 1)
        unit = math.sqrt(_REJECTED * guide.shape[1]) * sigma[:, None, None, None, None]
        features = torch.cat([guide, _NEIGHBOURHOOD * around], dim=1) / unit
        values = torch.cat([noisy, torch.ones_like(noisy[:, :1])], dim=1)
        total = values.clone()  # last channel: sum of the weights
        for here, there in _pairs(_REACH):
            raise_if_cancelled()
            difference = (features[here] - features[there]).square_().sum(1, keepdim=True)
            weight = (1 - difference).clamp_(min=0).square_().square_()
            total[here].addcmul_(weight, values[there])
            total[there].addcmul_(weight, values[here])
        return total[:, :-1] / total[:, -1:]


def _pairs(reach: int) -> Iterator[tuple[_Part, _Part]]:
    """Yield, for each offset in half of a ball, the voxels with a partner and these partners."""
    for offset in itertools.product(range(-reach, reach + 1), repeat=3):
        if offset > (0, 0, 0) and math.hypot(*offset) <= reach:
            first = [slice(max(0, -step), min(0, -step) or None) for step in offset]
            second = [slice(max(0, step), min(0, step) or None) for step in offset]
            yield (..., *first), (..., *second)
