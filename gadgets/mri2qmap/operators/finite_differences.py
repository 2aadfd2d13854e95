"""Finite differences of image volumes along the three axes of space.

Volumes are (..., z, y, x), differences (3, ..., z, y, x) with the axes z, y, x in front. Voxels
count as cubes: differences are between neighbours, whatever the distance of their centres.
"""

from __future__ import annotations

import itertools
import math

import torch

from mri2qmap.operators.linear_operator import LinearOperator, SelfAdjointOperator, Shape

_AXES = (-3, -2, -1)


class FiniteDifferences(LinearOperator):
    """Forward differences D: next voxel minus this one along z, y and x.

    The difference is zero at the last voxel of an axis: nothing is assumed about the outside.

    Parameters
    ----------
    shape
        Shape (..., z, y, x) of the volumes, real or complex.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = tuple(shape)

    @property
    def domain_shape(self) -> Shape:
        """Shape (..., z, y, x) of the volumes."""
        return self._shape

    @property
    def range_shape(self) -> Shape:
        """Shape (3, ..., z, y, x) of the differences along z, y and x."""
        return (3, *self._shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Differences (3, ..., z, y, x) of volumes (..., z, y, x)."""
        differences = x.new_zeros(self.range_shape)
        for difference, axis in zip(differences, _AXES, strict=True):
            pairs = x.shape[axis] - 1
            torch.sub(
                x.narrow(axis, 1, pairs),
                x.narrow(axis, 0, pairs),
                out=difference.narrow(axis, 0, pairs),
            )
        return differences

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Volumes (..., z, y, x) from differences (3, ..., z, y, x)."""
        volumes = y.new_zeros(self.domain_shape)
        for difference, axis in zip(y, _AXES, strict=True):
            pairs = difference.shape[axis] - 1
            inner = difference.narrow(axis, 0, pairs)
            volumes.narrow(axis, 1, pairs).add_(inner)
            volumes.narrow(axis, 0, pairs).sub_(inner)
        return volumes

    @property
    def gram(self) -> LinearOperator:
        """D^H D, without the differences of all axes in memory."""
        return _DifferencesGram(self._shape)

    def gram_spectrum(self) -> torch.Tensor:
        """Eigenvalues (z, y, x) of D^H D in the order of the FFT, for periodic volumes."""
        z, y, x = (2 - 2 * torch.cos(2 * math.pi / n * torch.arange(n)) for n in self._shape[-3:])
        return z[:, None, None] + y[:, None] + x


class _DifferencesGram(SelfAdjointOperator):
    """D^H D of `FiniteDifferences`."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    @property
    def domain_shape(self) -> Shape:
        return self._shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add_to(torch.zeros_like(x), x)

    def add_to(self, total: torch.Tensor, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        volumes = zip(_volumes(x.contiguous()), _volumes(total), strict=True)
        for (volume, sum_), axis in itertools.product(volumes, _AXES):
            pairs = volume.shape[axis] - 1
            difference = volume.narrow(axis, 1, pairs) - volume.narrow(axis, 0, pairs)
            sum_.narrow(axis, 1, pairs).add_(difference, alpha=factor)
            sum_.narrow(axis, 0, pairs).sub_(difference, alpha=factor)
        return total


def _volumes(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Volumes (z, y, x) of a tensor (..., z, y, x), as views of its memory."""
    return tensor.view(-1, *tensor.shape[-3:]).unbind()
