"""Nuclear norm of the blocks of a TSMI, and the regulariser that it makes.

A block is the matrix (s, voxels) of the subspace coefficients of a cube of voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from mri2qmap.machine.eigenvectors import hermitian_eigenvectors
from mri2qmap.operators.linear_operator import Identity, LinearOperator, Shape
from mri2qmap.recon.inner_products import distance, euclidean_norm
from mri2qmap.recon.regulariser import Regulariser, SplitStep


@dataclass(frozen=True)
class Blocks:
    """A partition of volumes into cubes, of which those at the border may be incomplete.

    Attributes
    ----------
    edge
        Edge length of the cubes [voxels].
    offset
        Number of voxels of the first cubes that lie outside of the volume, 0 to edge - 1.
    """

    edge: int
    offset: int = 0

    def cut(self, tsmi: torch.Tensor) -> torch.Tensor:
        """Matrices (blocks, s, voxels) of a TSMI (s, z, y, x); zeros complete the cubes."""
        pads = [self._pads(n) for n in tsmi.shape[1:]]
        padded = functional.pad(tsmi, [p for pair in reversed(pads) for p in pair])
        z, y, x = (n // self.edge for n in padded.shape[1:])
        e = self.edge
        cells = padded.reshape(len(tsmi), z, e, y, e, x, e)
        return cells.permute(1, 3, 5, 0, 2, 4, 6).reshape(z * y * x, len(tsmi), e**3)

    def join(self, matrices: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Inverse of `cut` for volumes of this shape (z, y, x)."""
        pads = [self._pads(n) for n in shape]
        e = self.edge
        z, y, x = (
            (n + before + after) // e for n, (before, after) in zip(shape, pads, strict=True)
        )
        cells = matrices.reshape(z, y, x, -1, e, e, e).permute(3, 0, 4, 1, 5, 2, 6)
        volumes = cells.reshape(-1, z * e, y * e, x * e)
        for axis, (n, (before, _)) in enumerate(zip(shape, pads, strict=True), start=1):
            volumes = volumes.narrow(axis, before, n)
        return volumes.contiguous()

    def _pads(self, size: int) -> tuple[int, int]:
        """Number of voxels to add before and after an axis of this size."""
        return self.offset, -(size + self.offset) % self.edge


def nuclear_norm(tsmi: torch.Tensor, blocks: Blocks) -> float:
    """Sum of the singular values of all blocks of a TSMI (s, z, y, x)."""
    return float(torch.linalg.svdvals(blocks.cut(tsmi)).sum(dtype=torch.float64))


def project_spectral_ball(matrices: torch.Tensor, limit: float) -> torch.Tensor:
    """Project matrices (..., s, voxels) onto the ball of the spectral norm with this radius.

    Singular values that exceed the limit are set to it. The spectral norm is dual to the nuclear
    norm: the difference between argument and result has the soft-thresholded singular values.
    """
    squares, directions = hermitian_eigenvectors(matrices @ matrices.mH)
    tiny = torch.finfo(squares.dtype).tiny
    factors = (limit / squares.clamp_min(tiny).sqrt()).clamp_max(1)
    return (directions * factors[..., None, :]) @ (directions.mH @ matrices)


@dataclass
class LocallyLowRank(Regulariser):
    r"""Low rank of blocks, :math:`\lambda / J \sum_j \sum_b \|X_{b,j}\|_*`.

    The sums are over J partitions and the blocks b of each. ADMM splits at Z_j = X for each
    partition, with the penalty rho / J. The proximal operator is soft thresholding of singular
    values. Residuals are the root mean square over the partitions.

    Attributes
    ----------
    penalty
        rho.
    limit
        lambda / rho: the threshold of the proximal step, a singular value. It sets the rate of
        convergence, not the solution.
    partitions
        With one partition, the borders of the blocks remain visible. A second one, with borders
        at the centres of the blocks of the first, hides them.
    """

    limit: float
    partitions: tuple[Blocks, ...]

    def step(self, volumes: torch.Tensor) -> SplitStep:
        """Update Z_j and P_j for X (s, z, y, x); the pull is rho times the mean of Z_j - P_j."""
        difference, multipliers = torch.zeros_like(volumes), torch.zeros_like(volumes)
        if self._multiplier is None:
            self._multiplier = volumes.new_zeros(len(self.partitions), *volumes.shape)
        primal = 0.0
        for number, blocks in enumerate(self.partitions):
            moved = volumes + self._multiplier[number]
            projected = project_spectral_ball(blocks.cut(moved), self.limit)
            multiplier = blocks.join(projected, volumes.shape[1:])
            # P - previous P = X - Z
            primal += distance(multiplier, self._multiplier[number]) ** 2
            self._multiplier[number] = multiplier
            multipliers += multiplier
            difference += moved.sub_(multiplier, alpha=2)  # Z - P
        count = len(self.partitions)
        split = multipliers.add_(difference).mul_(self.penalty / count)
        pull = difference.mul_(self.penalty / count)
        return self._completed(volumes, pull, split, (primal / count) ** 0.5)

    def quadratic(self, shape: Shape) -> LinearOperator:
        """Operator rho on volumes of this shape."""
        return self.penalty * Identity(shape)

    def spectrum(self, shape: Shape) -> float:
        """Eigenvalues of `quadratic`, which are all rho."""
        return self.penalty

    def evaluate(self, volumes: torch.Tensor) -> tuple[float, float]:
        """rho/2 ||X||^2 and lambda times the mean nuclear norm of X (s, z, y, x)."""
        norms = [nuclear_norm(volumes, blocks) for blocks in self.partitions]
        energy = self.penalty / 2 * euclidean_norm(volumes) ** 2
        return energy, self.penalty * self.limit * sum(norms) / len(norms)
