"""MRF-PnP: plug-and-play ADMM with a denoiser of the TSMI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mri2qmap.operators.linear_operator import Identity, LinearOperator, Shape
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.admm import AdmmIteration, solve_regularised
from mri2qmap.recon.inner_products import distance, euclidean_norm
from mri2qmap.recon.regulariser import Regulariser, SplitParameters, SplitStep
from mri2qmap.recon.saved_state import StateStore


@dataclass
class DenoiserRegulariser(Regulariser):
    """A denoiser as the proximal operator of a regulariser, split at Z = X.

    Attributes
    ----------
    penalty
        rho.
    denoise
        Maps X + P (s, z, y, x) to Z, a new tensor.
    """

    denoise: Callable[[torch.Tensor], torch.Tensor]

    def step(self, volumes: torch.Tensor) -> SplitStep:
        """Update Z and P for X (s, z, y, x): Z is the denoised X + P."""
        previous = self._multiplier
        moved = volumes.clone() if previous is None else volumes + previous
        denoised = self.denoise(moved)
        split = denoised * self.penalty
        multiplier = moved.sub_(denoised)
        # P - previous P = X - Z
        primal = euclidean_norm(multiplier) if previous is None else distance(multiplier, previous)
        self._multiplier = multiplier
        pull = denoised.sub_(multiplier).mul_(self.penalty)
        return self._completed(volumes, pull, split, primal)

    def quadratic(self, shape: Shape) -> LinearOperator:
        """Operator rho on volumes of this shape."""
        return self.penalty * Identity(shape)

    def spectrum(self, shape: Shape) -> float:
        """Eigenvalues of `quadratic`, which are all rho."""
        return self.penalty

    def evaluate(self, volumes: torch.Tensor) -> tuple[float, None]:
        """rho/2 ||X||^2 of X (s, z, y, x); the regulariser of a denoiser has no known value."""
        return self.penalty / 2 * euclidean_norm(volumes) ** 2, None


def mrf_pnp(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    denoise: Callable[[torch.Tensor], torch.Tensor],
    parameters: SplitParameters,
    on_iteration: Callable[[AdmmIteration], object] | None = None,
    store: StateStore | None = None,
) -> torch.Tensor:
    r"""Reconstruct a TSMI from undersampled data, regularised by a denoiser of TSMIs.

    `solve_regularised` with the denoiser instead of a proximal operator. Its noise level and the
    penalty are constant.

    Parameters
    ----------
    gram, adjoint_tsmi, initial_tsmi, on_iteration, store
        See `solve_regularised`.
    denoise
        Maps a TSMI (s, z, y, x) to its denoised version, a new tensor.
    parameters
        Numbers of iterations; the strength is the penalty rho, in units of the mean diagonal of
        A^H A, and must be positive.

    Returns
    -------
        X (s, z, y, x).

    Raises
    ------
    ValueError
        If the strength is zero.
    FloatingPointError
        If the data are not finite.

    References
    ----------
    Fatania et al., ISBI (2022); MRI2Qmap paper, supplement S.III.
    """
    if parameters.strength == 0:
        raise ValueError("strength: the penalty of a denoiser must be positive")
    regulariser = DenoiserRegulariser(parameters.strength * gram.mean_diagonal, denoise)
    return solve_regularised(
        gram, adjoint_tsmi, initial_tsmi, regulariser, parameters, on_iteration, store
    )
