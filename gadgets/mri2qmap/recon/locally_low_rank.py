"""Nuclear norm of the blocks of a TSMI, and its part in a least-squares update.

A block is the matrix (s, voxels) of the subspace coefficients of a cube of voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Blocks:
    """A partition of volumes into cubes; those at the border may be cut short.

    Attributes
    ----------
    edge
        Of the cubes [voxels].
    offset
        Voxels by which the first cubes begin before the volume, 0 to edge - 1.
    """

    edge: int
    offset: int = 0

    def cut(self, tsmi: torch.Tensor) -> torch.Tensor:
        """Matrices (blocks, s, voxels) of a TSMI (s, z, y, x); what is cut short ends in zeros."""
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
        """Voxels to add before and after an axis."""
        return self.offset, -(size + self.offset) % self.edge


def nuclear_norm(tsmi: torch.Tensor, blocks: Blocks) -> float:
    """Sum of the singular values of all blocks of a TSMI (s, z, y, x)."""
    return float(torch.linalg.svdvals(blocks.cut(tsmi)).sum(dtype=torch.float64))


def project_spectral_ball(matrices: torch.Tensor, limit: float) -> torch.Tensor:
    """Lower the singular values of matrices (..., s, voxels) that exceed `limit` to that.

    This is the projection onto the dual ball of the nuclear norm; what it takes away are the
    soft-thresholded singular values.
    """
    squares, directions = torch.linalg.eigh(matrices @ matrices.mH)
    tiny = torch.finfo(squares.dtype).tiny
    factors = (limit / squares.clamp_min(tiny).sqrt()).clamp_max(1)
    return (directions * factors[..., None, :]) @ (directions.mH @ matrices)


@dataclass
class LocallyLowRank:
    r"""Low rank of blocks as a prior of an iterative least-squares update.

    For a term :math:`\lambda / J \sum_j \sum_b \|X_{b,j}\|_*` over the blocks b of J partitions,
    ADMM puts Z_j = X for each partition; see `Regulariser`. The proximal operator is soft
    thresholding of singular values.

    Attributes
    ----------
    penalty
        rho.
    limit
        lambda / rho: what one step takes from each singular value. It sets the pace of the
        iterations, not their limit.
    partitions
        Blocks of one kind leave their borders visible; a second partition, whose borders lie in
        the middle of the blocks of the first, hides them.
    """

    penalty: float
    limit: float
    partitions: tuple[Blocks, ...]
    _multipliers: list[torch.Tensor | float] = field(init=False)

    def __post_init__(self) -> None:
        self._multipliers = [0.0] * len(self.partitions)

    def step(self, volumes: torch.Tensor) -> torch.Tensor:
        """Update Z and P for X (s, z, y, x); return rho times the mean of Z - P."""
        total = torch.zeros_like(volumes)
        for number, blocks in enumerate(self.partitions):
            moved = volumes + self._multipliers[number]
            limited = project_spectral_ball(blocks.cut(moved), self.limit)
            multiplier = blocks.join(limited, volumes.shape[1:])
            self._multipliers[number] = multiplier
            total += moved.sub_(multiplier, alpha=2)  # Z - P
        return total.mul_(self.penalty / len(self.partitions))

    def gram(self, volumes: torch.Tensor) -> torch.Tensor:
        """Apply rho."""
        return volumes * self.penalty

    def spectrum(self, shape: Sequence[int]) -> float:
        """Eigenvalues of `gram`, all the same."""
        return self.penalty
