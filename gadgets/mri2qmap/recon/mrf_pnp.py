"""MRF-PnP: plug-and-play ADMM with a denoiser of the TSMI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.regulariser import SplitIteration, SplitParameters, solve_regularised


@dataclass
class DenoiserRegulariser:
    """A denoiser as the proximal operator of a prior, split at Z = X; see `Regulariser`.

    Attributes
    ----------
    penalty
        rho.
    denoise
        Maps X + P (s, z, y, x) to Z.
    """

    penalty: float
    denoise: Callable[[torch.Tensor], torch.Tensor]
    _multiplier: torch.Tensor | float = field(default=0.0, init=False)

    def step(self, volumes: torch.Tensor) -> torch.Tensor:
        """Update Z and P for X (s, z, y, x); return rho (Z - P)."""
        moved = volumes + self._multiplier
        denoised = self.denoise(moved)
        self._multiplier = moved.sub_(denoised)
        return denoised.sub_(self._multiplier).mul_(self.penalty)

    def gram(self, volumes: torch.Tensor) -> torch.Tensor:
        """Apply rho."""
        return volumes * self.penalty

    def spectrum(self, shape: Sequence[int]) -> float:
        """Eigenvalues of `gram`, all the same."""
        return self.penalty


def mrf_pnp(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    denoise: Callable[[torch.Tensor], torch.Tensor],
    parameters: SplitParameters,
    on_iteration: Callable[[SplitIteration], object] | None = None,
) -> torch.Tensor:
    r"""Reconstruct a TSMI from undersampled data with a denoiser of TSMIs as prior.

    `solve_regularised` with the denoiser in the place of the proximal operator. Its noise level and
    the penalty stay the same throughout.

    Parameters
    ----------
    gram, adjoint_tsmi, initial_tsmi, on_iteration
        See `solve_regularised`.
    denoise
        From a TSMI (s, z, y, x) to a better one.
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
    prior = DenoiserRegulariser(parameters.strength * gram.mean_diagonal, denoise)
    return solve_regularised(gram, adjoint_tsmi, initial_tsmi, prior, parameters, on_iteration)
