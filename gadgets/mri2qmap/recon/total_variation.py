"""Total variation of image volumes, and its part in a least-squares update.

Volumes are (..., z, y, x), differences (3, ..., z, y, x) with the axes z, y, x in front. Voxels
count as cubes: differences are between neighbours, whatever the distance of their centres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mri2qmap.recon.noise_level import intensity

_AXES = (-3, -2, -1)
_AT_EDGES = 0.2
"""What is left of the total variation at the clearest edges."""


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


def gradient_gram_spectrum(shape: Sequence[int]) -> torch.Tensor:
    """Eigenvalues (z, y, x) of D^H D in the order of the FFT, if the volume were periodic."""
    z, y, x = (2 - 2 * torch.cos(2 * math.pi / n * torch.arange(n)) for n in shape)
    return z[:, None, None] + y[:, None] + x


def total_variation(volumes: torch.Tensor) -> float:
    """Isotropic total variation of volumes (..., z, y, x), summed over the leading axes.

    At each voxel of each volume it counts the length of the gradient, taken over the three
    directions and over real and imaginary part.
    """
    lengths = torch.linalg.vector_norm(gradient(volumes), dim=0)
    return float(lengths.sum(dtype=torch.float64))


def project_dual_ball(differences: torch.Tensor, limit: float | torch.Tensor) -> torch.Tensor:
    """Shorten the gradients (3, ..., z, y, x) that are longer than `limit` to that length.

    The limit is one number or that of each voxel (z, y, x). This is the projection onto the dual
    ball of the total variation; what it takes away is the soft-thresholded gradient.
    """
    lengths = torch.linalg.vector_norm(differences, dim=0)
    tiny = torch.finfo(lengths.dtype).tiny
    return differences * (limit / lengths.clamp_min(tiny)).clamp_max(1)


def edge_keeping_weights(
    images: torch.Tensor, contrast_weights: Sequence[float], edge_contrast: float
) -> torch.Tensor:
    r"""Weight the total variation of each voxel by the edges that images of the object show.

    .. math::

        c = c_0 + \frac{1 - c_0}{1 + e^2 / \kappa^2}, \qquad
        e^2 = \sum_i w_i \|D V_i\|^2 / v_i^2

    with the `intensity` v_i of image i, so that c falls from 1 where the images are even to
    c_0 = 0.2 where they have clear edges.

    Parameters
    ----------
    images
        Real images V (contrast, z, y, x).
    contrast_weights
        w of each image; an image of nothing counts for nothing.
    edge_contrast
        kappa, the jump between neighbours, in units of the intensity, at which c is half-way.

    Returns
    -------
        c (z, y, x).

    References
    ----------
    Weights that fall with the edges of another contrast: Ehrhardt and Betcke, SIAM J Imaging Sci
    9:1084 (2016), Section 3.
    """
    edges = torch.zeros_like(images[0])
    for image, weight in zip(images, contrast_weights, strict=True):
        if image.any():
            lengths = gradient(image).square_().sum(0)
            edges.add_(lengths, alpha=weight / (edge_contrast * intensity(image[None])) ** 2)
    return _AT_EDGES + (1 - _AT_EDGES) / (1 + edges)


@dataclass
class TotalVariation:
    r"""Total variation as a prior of an iterative least-squares update, split at the gradient.

    For a term lambda TV(X) in an objective, ADMM puts Z = D X and a scaled multiplier P::

        P = D X + P, shortened to lambda / rho;  Z = what was taken away
        X = argmin (other terms) + rho/2 ||D X - Z + P||^2

    `step` does the first line. The second adds `gram` to the operator of the normal equations,
    and what `step` returned to their right-hand side.

    Attributes
    ----------
    penalty
        rho.
    limit
        lambda / rho: the jump between neighbours that one step takes away. It sets the pace of the
        iterations, not their limit.
    weights
        What lambda is multiplied by in each voxel (z, y, x), from 0 to 1; they may change between
        steps.

    References
    ----------
    Goldstein and Osher, SIAM J Imaging Sci 2:323 (2009).
    """

    penalty: float
    limit: float
    weights: torch.Tensor | float = 1.0
    _multiplier: torch.Tensor | float = field(default=0.0, init=False)

    def step(self, volumes: torch.Tensor) -> torch.Tensor:
        """Update Z and P for X (..., z, y, x); return rho D^H (Z - P), of the same shape."""
        differences = gradient(volumes).add_(self._multiplier)
        self._multiplier = project_dual_ball(differences, self.limit * self.weights)
        differences.sub_(self._multiplier, alpha=2)  # Z - P
        return gradient_adjoint(differences).mul_(self.penalty)

    def gram(self, volumes: torch.Tensor) -> torch.Tensor:
        """Apply rho D^H D."""
        return gradient_adjoint(gradient(volumes)).mul_(self.penalty)

    def spectrum(self, shape: Sequence[int]) -> torch.Tensor:
        """Eigenvalues (z, y, x) of `gram` in the order of the FFT, if volumes were periodic."""
        return self.penalty * gradient_gram_spectrum(shape)
