"""Total nuclear variation of volumes: the coefficients of a TSMI have their edges in common.

Volumes are (s, z, y, x), their differences (3, s, z, y, x), see `FiniteDifferences`. In each voxel,
the differences are a matrix of directions and coefficients, the Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from mri2qmap.machine.devices import voxel_blocks
from mri2qmap.recon.total_variation import TotalVariation


class NuclearVariation(TotalVariation):
    r"""Total nuclear variation: sum over voxels of the nuclear norm of the Jacobian.

    At the border of two tissues, the coefficients change along the same direction and in fixed
    proportion, so that the Jacobian is of rank one, as in a voxel of tissue that varies. Noise is
    of full rank. The nuclear norm favours low rank: at the same suppression of noise, borders and
    texture lose less than with the sum of the total variations of the coefficients.

    Attributes
    ----------
    penalty, limit, weights
        See `TotalVariation`; the limit is that of singular values.

    References
    ----------
    Holt, IEEE Trans Image Process 23:3975 (2014); for images of two modalities: Knoll et al., IEEE
    Trans Med Imaging 36:1 (2017).
    """

    def _project(
        self, differences: torch.Tensor, limit: float | torch.Tensor, multiplier: torch.Tensor
    ) -> float:
        change = torch.zeros((), dtype=torch.float64, device=differences.device)
        flat = multiplier.view(3, len(multiplier[0]), -1)
        for part, limited in _limited_blocks(differences, limit):
            change += (limited - flat[:, :, part]).abs().double().square().sum()
            flat[:, :, part] = limited
        return math.sqrt(float(change))

    def _norms(self, differences: torch.Tensor) -> torch.Tensor:
        return nuclear_norms(differences)


def nuclear_norms(differences: torch.Tensor) -> torch.Tensor:
    """Nuclear norms (z, y, x) of the Jacobians of differences (3, s, z, y, x)."""
    norms = torch.empty(differences.shape[2:], device=differences.device)
    for part, jacobians in _blocks(differences):
        roots = _eigenvalues(_gram(jacobians)).sqrt()
        norms.view(-1)[part] = roots.sum(0).to(norms.dtype)
    return norms


def limit_singular_values(differences: torch.Tensor, limit: float | torch.Tensor) -> torch.Tensor:
    r"""Limit the singular values of the Jacobians of differences (3, s, z, y, x).

    This is the projection onto the dual ball of the total nuclear variation. The difference between
    argument and result has the soft-thresholded singular values. Where G = J J^H has the
    eigenvalues a, b, c, the result is f(G) J with f(e) = min(1, limit / sqrt(e)), by Newton's
    interpolation of f

    .. math:: f(G) = f[a] + (f[a, b] + f[a, b, c] (G - b)) (G - a)

    Parameters
    ----------
    differences
        Differences (3, s, z, y, x), real or complex.
    limit
        One number, or one for each voxel (z, y, x).

    Raises
    ------
    ValueError
        If the differences have other axes.

    References
    ----------
    Higham, Functions of Matrices (SIAM, 2008), Section 1.2.2.
    """
    result = torch.empty_like(differences, memory_format=torch.contiguous_format)
    flat = result.flatten(2)  # a view
    for part, limited in _limited_blocks(differences, limit):
        flat[:, :, part] = limited
    return result


def _limited_blocks(
    differences: torch.Tensor, limit: float | torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of voxels, and their Jacobians (3, s, voxel) with limited singular values."""
    limits = None
    if isinstance(limit, torch.Tensor):
        limits = limit.expand(differences.shape[2:]).reshape(-1)
    for part, jacobians in _blocks(differences):
        gram = _gram(jacobians)
        largest = limits[part].double() if limits is not None else float(limit)
        factor = _limiting(gram, _eigenvalues(gram), largest).to(jacobians.dtype)
        yield part, (factor @ jacobians).permute(1, 2, 0)


def _blocks(differences: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of voxels, and their Jacobians (voxel, 3, s)."""
    if differences.ndim != 5:
        raise ValueError(
            f"differences {tuple(differences.shape)}: (3, s, z, y, x) is expected; one volume "
            "needs an axis of one coefficient"
        )
    flat = differences.flatten(2)
    for part in voxel_blocks(flat.shape[2], flat.device):
        yield part, flat[:, :, part].permute(2, 0, 1)


def _gram(jacobians: torch.Tensor) -> torch.Tensor:
    """J J^H (voxel, 3, 3) in double precision."""
    jacobians = jacobians.to(torch.promote_types(jacobians.dtype, torch.float64))
    return jacobians @ jacobians.mH


def _eigenvalues(gram: torch.Tensor) -> torch.Tensor:
    """Eigenvalues (3, voxel) of positive Hermitian matrices (voxel, 3, 3), ascending.

    In closed form (Smith, Commun ACM 4:168, 1961): a library's solver takes three times as long
    for so many small matrices. Eigenvalues below 1e-8 of the largest one are not resolved.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2).real
    mean = diagonal.mean(1)
    off = (gram[:, 0, 1], gram[:, 0, 2], gram[:, 1, 2])
    x, y, z = (diagonal - mean[:, None]).unbind(1)
    xy, xz, yz = (entry.abs().square() for entry in off)
    spread = ((x * x + y * y + z * z + 2 * (xy + xz + yz)) / 6).sqrt()
    determinant = x * y * z + 2 * (off[0] * off[2] * off[1].conj()).real - x * yz - y * xz - z * xy
    tiny = torch.finfo(spread.dtype).tiny
    cosine = (determinant / (2 * spread**3).clamp_min(tiny)).clamp(-1, 1)
    angle = torch.acos(cosine) / 3
    high = mean + 2 * spread * torch.cos(angle)
    low = mean + 2 * spread * torch.cos(angle + 2 * math.pi / 3)
    return torch.stack([low, 3 * mean - high - low, high]).clamp_min(0)


def _limiting(
    gram: torch.Tensor, eigenvalues: torch.Tensor, limit: torch.Tensor | float
) -> torch.Tensor:
    """f(G) (voxel, 3, 3), see `limit_singular_values`, of G with eigenvalues (3, voxel)."""
    roots = eigenvalues.sqrt()
    tiny = torch.finfo(roots.dtype).tiny
    low, middle, high = (limit / roots.clamp_min(tiny)).clamp_max(1)
    first = _slope(low, middle, roots[0], roots[1])
    second = _slope(middle, high, roots[1], roots[2])
    curvature = (second - first) / (eigenvalues[2] - eigenvalues[0]).clamp_min(tiny)
    identity = torch.eye(3, dtype=gram.dtype, device=gram.device)
    result = curvature[:, None, None] * (gram - eigenvalues[1, :, None, None] * identity)
    result += first[:, None, None] * identity
    result = result @ (gram - eigenvalues[0, :, None, None] * identity)
    return result.add_(low[:, None, None] * identity)


def _slope(
    f_low: torch.Tensor, f_high: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    r"""Divided difference of f between two squares of roots.

    Where both are limited, f = limit / root, without cancellation:
    f[a, b] = - f(a) / (sqrt(b) (sqrt(a) + sqrt(b))). Where only the larger one is, it is the
    quotient of the differences, and between values that are not limited zero.
    """
    tiny = torch.finfo(low.dtype).tiny
    both = -f_low / (high * (low + high)).clamp_min(tiny)
    one = (f_high - f_low) / ((high - low) * (high + low)).clamp_min(tiny)
    return torch.where(f_low < 1, both, one)
