"""Finite differences of image volumes, and their total variation.

Volumes are (..., z, y, x), differences (3, ..., z, y, x) with the axes z, y, x in front. Voxels
count as cubes: differences are between neighbours, whatever the distance of their centres.
"""

from __future__ import annotations

import torch

_AXES = (-3, -2, -1)


def gradient(volumes: torch.Tensor) -> torch.Tensor:
    """Forward differences, D X.

    Parameters
    ----------
    volumes
        Real or complex (..., z, y, x).

    Returns
    -------
        Next voxel minus this one along z, y and x, (3, ..., z, y, x); zero at the last voxel of
        an axis, so that nothing is assumed about what lies outside.
    """
    differences = volumes.new_zeros(3, *volumes.shape)
    for difference, axis in zip(differences, _AXES, strict=True):
        pairs = volumes.shape[axis] - 1
        torch.sub(
            volumes.narrow(axis, 1, pairs),
            volumes.narrow(axis, 0, pairs),
            out=difference.narrow(axis, 0, pairs),
        )
    return differences


def gradient_adjoint(differences: torch.Tensor) -> torch.Tensor:
    """Adjoint D^H of `gradient`, from (3, ..., z, y, x) to (..., z, y, x)."""
    volumes = torch.zeros_like(differences[0])
    for difference, axis in zip(differences, _AXES, strict=True):
        pairs = difference.shape[axis] - 1
        inner = difference.narrow(axis, 0, pairs)
        volumes.narrow(axis, 1, pairs).add_(inner)
        volumes.narrow(axis, 0, pairs).sub_(inner)
    return volumes


def total_variation(volumes: torch.Tensor) -> float:
    """Isotropic total variation of volumes (..., z, y, x), summed over the leading axes.

    At each voxel of each volume it counts the length of the gradient, taken over the three
    directions and over real and imaginary part.
    """
    lengths = torch.linalg.vector_norm(gradient(volumes), dim=0)
    return float(lengths.sum(dtype=torch.float64))


def limit_lengths(differences: torch.Tensor, limit: float) -> torch.Tensor:
    """Shorten the gradients (3, ..., z, y, x) that are longer than `limit` to that length.

    This is the projection onto the dual ball of the total variation; what it takes away is the
    soft-thresholded gradient.
    """
    lengths = torch.linalg.vector_norm(differences, dim=0)
    tiny = torch.finfo(lengths.dtype).tiny
    return differences * (limit / lengths.clamp_min(tiny)).clamp_max(1)
