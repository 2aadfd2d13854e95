"""Standard deviations of T1 and T2 in reconstructions with priors, from the variation of the maps.

The residual of a match shows little of the errors that remain where priors have removed noise: lost
texture, blurred borders and mixed voxels look like another tissue. How large these errors are
depends on how much the maps vary in the neighbourhood.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

_WINDOW = 5
"""Side of the cube of the neighbourhood [voxels]."""
_LEAST_VARIATION = 3e-3
"""Difference of the logarithms of neighbours that counts as none."""


@dataclass(frozen=True)
class ErrorCurve:
    r"""Standard deviation of the logarithm of a relaxation time as a function of its variation g.

    .. math:: s(g) = s_1 \left(\frac{g}{g + g_1}\right)^p

    Attributes
    ----------
    largest
        s_1: at borders, of fluid for example.
    bend
        g_1: variation from which on the error rises more slowly.
    power
        p.
    """

    largest: float
    bend: float
    power: float

    def __call__(self, variation: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation (z, y, x) for a variation (z, y, x)."""
        return self.largest * (variation / (variation + self.bend)).pow(self.power)


T1_ERROR = ErrorCurve(0.131, 0.074, 1.48)
T2_ERROR = ErrorCurve(0.087, 0.024, 2.18)
"""Fitted to simulated scans of training anatomies, see docs/appendix_experiments.md."""


def local_variation(times: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    r"""Geometric mean over a neighbourhood of the differences between neighbouring voxels.

    With the mean square d^2 of the differences of log T between a voxel and its neighbours along
    the three axes, the sum over the axes,

    .. math:: g = \exp \operatorname{mean}_{5 \times 5 \times 5} \log \sqrt{d^2 + 0.003^2} .

    A single border hardly changes it, in contrast to the mean of d.

    Parameters
    ----------
    times
        T1 or T2 [s] (z, y, x), positive in the object.
    inside
        Voxels of the object (z, y, x), bool. Others neither have a variation nor contribute to one.

    Returns
    -------
        g (z, y, x), float32, at least 0.003; zero outside the object.
    """
    logarithm = torch.where(inside, times, 1.0).float().log()
    within = inside.float()
    total = torch.zeros_like(logarithm)
    for axis in range(3):
        pairs = times.shape[axis] - 1
        first, second = (within.narrow(axis, start, pairs) for start in (0, 1))
        counted = first * second  # both voxels of the pair are in the object
        squares = logarithm.diff(dim=axis).square_() * counted
        total += _at_both_voxels(squares, axis) / _at_both_voxels(counted, axis).clamp_min(1)
    change = 0.5 * (total + _LEAST_VARIATION**2).log()
    mean = _box_sum(change * within) / _box_sum(within).clamp_min(1)
    return torch.where(inside, mean.exp(), 0.0)


def variation_uncertainty(
    t1: torch.Tensor, t2: torch.Tensor, inside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return standard deviations of T1 and T2 that the variation of the maps makes likely.

    Parameters
    ----------
    t1, t2
        Maps [s] (z, y, x).
    inside
        Voxels of the object (z, y, x), bool, see `object_mask`.

    Returns
    -------
    t1_std, t2_std
        Standard deviations [s] (z, y, x), float32; zero outside the object.

    Notes
    -----
    An interval of one standard deviation to either side is meant to contain the truth in 68 % of
    the voxels of white and grey matter.
    """
    pairs = ((t1, T1_ERROR), (t2, T2_ERROR))
    first, second = (curve(local_variation(times, inside)) * times for times, curve in pairs)
    return first, second


def _at_both_voxels(pairs: torch.Tensor, axis: int) -> torch.Tensor:
    """Sum (z, y, x), at each voxel, of the values of its pairs with neighbours along an axis."""
    count = pairs.shape[axis]
    shape = list(pairs.shape)
    shape[axis] += 1
    total = pairs.new_zeros(shape)
    for start in (0, 1):
        total.narrow(axis, start, count).add_(pairs)
    return total


def _box_sum(volume: torch.Tensor) -> torch.Tensor:
    """Sum (z, y, x) over the neighbourhood of each voxel; nothing is outside the volume."""
    padded = functional.pad(volume[None, None], [_WINDOW // 2] * 6)
    summed: torch.Tensor = functional.avg_pool3d(padded, _WINDOW, stride=1, divisor_override=1)
    return summed[0, 0]
