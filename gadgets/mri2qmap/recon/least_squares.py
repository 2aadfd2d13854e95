"""The least-squares problem of a single set of samples, outside any stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram, toeplitz_kernels
from mri2qmap.recon.conjugate_gradient import conjugate_gradient


@dataclass(frozen=True)
class LeastSquares:
    """Normal equations of 1/2 ||A X - Y||^2.

    Attributes
    ----------
    gram
        A^H A.
    adjoint
        A^H Y (s, z, y, x), complex64.
    """

    gram: ToeplitzGram
    adjoint: torch.Tensor

    @classmethod
    def of_samples(
        cls,
        kspace: torch.Tensor,
        trajectory: torch.Tensor,
        frames: torch.Tensor,
        basis: torch.Tensor,
        shape: tuple[int, int, int],
        coil_maps: torch.Tensor | None = None,
    ) -> LeastSquares:
        """Build them from samples (c, samples); the rest as `SubspaceSampling` takes it."""
        device = kspace.device
        if coil_maps is None:
            coil_maps = torch.ones(1, *shape, dtype=torch.complex64, device=device)
        sampling = SubspaceSampling(trajectory, frames, basis, shape, coil_maps, device)
        kernels = toeplitz_kernels(trajectory, frames, basis, shape, device=device)
        return cls(ToeplitzGram(kernels, coil_maps), sampling.adjoint(kspace))

    def solve(self, iterations: int = 20, tolerance: float = 1e-3) -> torch.Tensor:
        """X0 (s, z, y, x): conjugate gradients from zero."""
        start = torch.zeros_like(self.adjoint)
        return conjugate_gradient(self.gram, self.adjoint, start, iterations, tolerance)[0]
