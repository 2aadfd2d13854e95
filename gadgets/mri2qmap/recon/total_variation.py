"""Total variation of image volumes, and the regulariser that it makes.

Volumes are (..., z, y, x), their differences (3, ..., z, y, x), see `FiniteDifferences`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.operators.finite_differences import FiniteDifferences
from mri2qmap.operators.linear_operator import LinearOperator, Shape
from mri2qmap.recon.inner_products import euclidean_norm, fetched, squared_norm
from mri2qmap.recon.noise_level import intensity
from mri2qmap.recon.regulariser import Regulariser, SplitStep

_AT_EDGES = 0.25
"""Smallest weight of the total variation, at edges of high contrast, relative to that elsewhere."""
_QUIET = 0.1
"""Quantile of the gradients of an object that tells how smooth its tissue is."""
_SMOOTH_TISSUE, _NOISE_LEFT = 0.004, 0.2
"""This quantile for uniform tissue is the first number plus the second one times the noise level
from which the images were restored: some of the noise remains in them."""
_RISE = 24.0
"""Increase of the contrast of edges per unit of this quantile."""
_FALL = 0.55
"""Exponent with which the weights decrease with the contrast of edges."""
_OBJECT, _SAMPLES = 0.1, 1_000_000
"""Least brightness of the object, in units of the intensity, and number of voxels that is enough
for a quantile."""
_AT_ONCE = 2**23
"""Elements of volumes whose variation is evaluated together."""


def total_variation(volumes: torch.Tensor) -> float:
    """Isotropic total variation of volumes (..., z, y, x), summed over the leading axes.

    The sum over voxels of the length of the gradient, which comprises the three directions and the
    real and imaginary parts.
    """
    differences = FiniteDifferences(tuple(volumes.shape)) @ volumes
    return float(_lengths(differences).sum(dtype=torch.float64))


def project_dual_ball(differences: torch.Tensor, limit: float | torch.Tensor) -> torch.Tensor:
    """Project gradients (3, ..., z, y, x) onto the dual ball of the total variation.

    Gradients longer than the limit, one number or one for each voxel (z, y, x), are shortened to
    it. The difference between argument and result is the soft-thresholded gradient.
    """
    lengths = _lengths(differences)
    tiny = torch.finfo(lengths.dtype).tiny
    return differences * (limit / lengths.clamp_min(tiny)).clamp_max(1)


def edge_keeping_weights(
    images: torch.Tensor,
    contrast_weights: Sequence[float],
    edge_contrast: float,
    sigma: float,
) -> torch.Tensor:
    r"""Weights of the total variation of each voxel that are small at the edges of given images.

    .. math::

        c = \left(\frac{\kappa_0}{\kappa}\right)^{0.55}
        \left(c_0 + \frac{1 - c_0}{1 + e^2 / \kappa^2}\right), \qquad
        e^2 = \sum_i w_i \|D V_i\|^2 / v_i^2

    with the `intensity` v_i of image i and c_0 = 0.25. An edge is what stands out from the tissue:
    the contrast kappa at which c is halfway between its values in uniform tissue and at edges is

    .. math:: \kappa = \kappa_0 + 24 \max(q - 0.004 - 0.2 \sigma, 0)

    with the tenth percentile q of e over the object; the two terms that are subtracted are the
    noise that remains in the images. In a brain of uniform tissues, kappa is kappa_0. In a real
    one, tissue varies and borders are gradual. kappa is then two to three times as large, so that
    fewer gradients count as edges. c is also smaller everywhere: a prior that expects larger
    gradients is weaker.

    Parameters
    ----------
    images
        Real images V (contrast, z, y, x).
    contrast_weights
        w of each image; images that are zero everywhere, or of weight zero, are left out.
    edge_contrast
        kappa_0, a difference between neighbours in units of the intensity.
    sigma
        Noise level from which the images were restored, relative to the intensity scale of the
        denoiser.

    Returns
    -------
        c (z, y, x), at most 1.

    References
    ----------
    Weights that fall with the edges of another contrast: Ehrhardt and Betcke, SIAM J Imaging Sci
    9:1084 (2016), Section 3. Scale of edges from the gradients of the image itself: Black et al.,
    IEEE Trans Image Process 7:421 (1998), Section V.
    """
    edges = torch.zeros_like(images[0])
    brightness = torch.zeros_like(edges)
    for image, weight in zip(images, contrast_weights, strict=True):
        if weight and image.any():
            scale = intensity(image[None])
            squares = FiniteDifferences(tuple(image.shape)).forward(image).square_().sum(0)
            edges.add_(squares, alpha=weight / scale**2)
            brightness.add_(image.abs(), alpha=1 / scale)
    quiet = float(_quantile(edges[brightness > _OBJECT], _QUIET).sqrt())
    excess = quiet - _SMOOTH_TISSUE - _NOISE_LEFT * sigma
    contrast = edge_contrast + _RISE * max(excess, 0.0)
    shape = _AT_EDGES + (1 - _AT_EDGES) / (1 + edges / contrast**2)
    return shape.mul_((edge_contrast / contrast) ** _FALL)


def _quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """Quantile () of values (n,), or of evenly spaced ones if there are many; 0 without any."""
    values = values[:: max(1, len(values) // _SAMPLES)]
    if not len(values):
        return values.new_zeros(())
    return values.kthvalue(1 + int(share * (len(values) - 1))).values


@dataclass
class TotalVariation(Regulariser):
    r"""Total variation lambda TV(X), split at the finite differences D X.

    Attributes
    ----------
    penalty
        rho.
    limit
        lambda / rho: the threshold of the proximal step, a difference between neighbours. It sets
        the rate of convergence, not the solution.
    weights
        Factor of lambda in each voxel (z, y, x), from 0 to 1. It may change between steps.

    References
    ----------
    Goldstein and Osher, SIAM J Imaging Sci 2:323 (2009).
    """

    limit: float
    weights: torch.Tensor | float = 1.0

    def step(self, volumes: torch.Tensor) -> SplitStep:
        """Update Z and P for X (..., z, y, x): P is the projection of D X + P."""
        operator = FiniteDifferences(tuple(volumes.shape))
        differences = operator @ volumes
        if self._multiplier is None:
            self._multiplier = torch.zeros_like(differences)
        differences.add_(self._multiplier)
        # P - previous P = D X - Z
        primal = self._project(differences, self.limit * self.weights, self._multiplier)
        differences.sub_(self._multiplier, alpha=2)  # Z - P
        pull = operator.adjoint(differences).mul_(self.penalty)
        del differences
        split = operator.adjoint(self._multiplier).mul_(self.penalty).add_(pull)
        return self._completed(volumes, pull, split, primal)

    def quadratic(self, shape: Shape) -> LinearOperator:
        """Operator rho D^H D on volumes of this shape."""
        return self.penalty * FiniteDifferences(shape).gram

    def spectrum(self, shape: Shape) -> torch.Tensor:
        """Eigenvalues (z, y, x) of rho D^H D in the order of the FFT, for periodic volumes."""
        return self.penalty * FiniteDifferences(shape).gram_spectrum()

    def evaluate(self, volumes: torch.Tensor) -> tuple[float, float]:
        """rho/2 ||D X||^2 and the weighted lambda TV(X) of X (..., z, y, x)."""
        planes = volumes.shape[-3]
        together = max(1, _AT_ONCE * planes // volumes.numel())
        energy, total = 0.0, 0.0
        for first in range(0, planes, together):
            raise_if_cancelled()
            count = min(together, planes - first)
            # the differences along z need the next plane
            part = volumes.narrow(-3, first, min(count + 1, planes - first))
            differences = (FiniteDifferences(tuple(part.shape)) @ part).narrow(-3, 0, count)
            weights = self.weights
            if isinstance(weights, torch.Tensor):
                weights = weights.narrow(-3, first, count)
            energy += euclidean_norm(differences) ** 2
            total += float(self._norms(differences).mul_(weights).sum(dtype=torch.float64))
        return self.penalty / 2 * energy, self.penalty * self.limit * total

    def _project(
        self, differences: torch.Tensor, limit: float | torch.Tensor, multiplier: torch.Tensor
    ) -> float:
        """Replace a multiplier by the projection of differences onto the dual ball of this radius.

        Both are (3, ..., z, y, x). Returns the norm of the change.
        """
        changes = []
        arrays = (array.view(3, -1, *array.shape[-3:]) for array in (differences, multiplier))
        for volume, part in zip(*(array.unbind(1) for array in arrays), strict=True):
            raise_if_cancelled()
            projected = project_dual_ball(volume, limit)
            changes.append(squared_norm(projected - part))
            part.copy_(projected)
        return math.sqrt(sum(fetched(*changes)))

    def _norms(self, differences: torch.Tensor) -> torch.Tensor:
        """What TV sums over the voxels (..., z, y, x), for differences (3, ..., z, y, x)."""
        return _lengths(differences)


def _lengths(differences: torch.Tensor) -> torch.Tensor:
    """Lengths (..., z, y, x) of gradients (3, ..., z, y, x)."""
    lengths: torch.Tensor = torch.linalg.vector_norm(differences, dim=0)
    return lengths
