"""The least-squares problem of one set of samples, without a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram
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
        """Build them from samples (c, samples); for the other arguments see `SubspaceSampling`."""
        sampling = SubspaceSampling(trajectory, frames, basis, shape, coil_maps, kspace.device)
        return cls(sampling.toeplitz_gram(), sampling.H @ kspace)

    def solve(self, iterations: int = 20, tolerance: float = 1e-3) -> torch.Tensor:
        """X0 (s, z, y, x) by conjugate gradients from zero."""
        start = torch.zeros_like(self.adjoint)
        return conjugate_gradient(self.gram, self.adjoint, start, iterations, tolerance)[0]
