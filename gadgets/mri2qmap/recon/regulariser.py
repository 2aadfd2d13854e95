"""Least squares with a convex prior, solved by ADMM: the loop that LRTV, LLR and MRF-PnP share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mri2qmap.mrsignal.value_checks import (
    refuse_unless_below_one,
    refuse_unless_counts,
    refuse_unless_not_negative,
    refuse_unless_positive,
)
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.conjugate_gradient import CgOutcome, conjugate_gradient


class SplitPrior(Protocol):
    """A prior lambda R(L X), split at L X = Z with a penalty rho and a scaled multiplier P."""

    def step(self, volumes: torch.Tensor) -> torch.Tensor:
        """Update Z and P for X (..., z, y, x); return rho L^H (Z - P), of the same shape."""

    def gram(self, volumes: torch.Tensor) -> torch.Tensor:
        """Apply rho L^H L."""

    def spectrum(self, shape: Sequence[int]) -> torch.Tensor | float:
        """Eigenvalues (z, y, x) of `gram` in the order of the FFT, if volumes were periodic."""


@dataclass(frozen=True)
class SplitParameters:
    """Parameters of `solve_with_prior` and of a prior's strength.

    Attributes
    ----------
    strength
        lambda, in units of the mean diagonal of A^H A times the noise of X0 (`relative_noise` times
        `intensity`), so that neither the scaling of the scan, nor the number of its samples, nor
        its noise matters.
    iterations
        ADMM iterations T.
    cg_iterations, cg_tolerance
        Limits of each k-space update: preconditioned steps and relative residual. The residual is
        dominated by the densely sampled centre of k-space, hence the small tolerance.
    threshold
        lambda / rho, in units of the intensity of X0: the threshold of the proximal step. It sets
        the rate of convergence, not the solution.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    strength: float = 8.0
    iterations: int = 20
    cg_iterations: int = 2
    cg_tolerance: float = 1e-5
    threshold: float = 0.1

    def __post_init__(self) -> None:
        refuse_unless_not_negative(self, "strength")
        refuse_unless_positive(self, "threshold")
        refuse_unless_counts(self, "iterations", "cg_iterations")
        refuse_unless_below_one(self, "cg_tolerance")


@dataclass(frozen=True)
class SplitIteration:
    """State after one iteration, for those who watch."""

    number: int
    tsmi: torch.Tensor
    cg: CgOutcome


def solve_with_prior(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    prior: SplitPrior,
    parameters: SplitParameters,
    on_iteration: Callable[[SplitIteration], object] | None = None,
) -> torch.Tensor:
    r"""Minimise 1/2 ||A X - Y||^2 + lambda R(L X).

    ADMM, with the k-space update inexact::

        X = X0,  P = 0
        for t = 1 ... T
            Z = prox_{lambda / rho R}(L X + P),  P = L X + P - Z
            X = argmin 1/2 ||A X - Y||^2 + rho/2 ||L X - Z + P||^2

    The last line is a few warm-started conjugate-gradient steps on
    (A^H A + rho L^H L) X = A^H Y + rho L^H (Z - P), preconditioned with the circulant nearest to
    it. FISTA, with which such methods are published, takes steps as short as the largest eigenvalue
    of A^H A demands, which the centre of k-space makes thousands of times the mean one.

    Parameters
    ----------
    gram
        A^H A.
    adjoint_tsmi
        A^H Y (s, z, y, x), complex64.
    initial_tsmi
        X0 (s, z, y, x).
    prior
        With lambda and rho in it.
    parameters
        Numbers of iterations.
    on_iteration
        Called after each iteration.

    Returns
    -------
        X (s, z, y, x).

    Raises
    ------
    FloatingPointError
        If the data are not finite.

    References
    ----------
    Boyd et al., Found Trends Mach Learn 3:1 (2011), sections 3 and 4.3.
    """

    def regularised_gram(tsmi: torch.Tensor) -> torch.Tensor:
        return gram(tsmi).add_(prior.gram(tsmi))

    preconditioner = gram.circulant.inverse(prior.spectrum(gram.shape))
    tsmi = initial_tsmi
    for number in range(1, parameters.iterations + 1):
        tsmi, cg = conjugate_gradient(
            regularised_gram,
            prior.step(tsmi).add_(adjoint_tsmi),
            tsmi,
            parameters.cg_iterations,
            parameters.cg_tolerance,
            preconditioner=preconditioner,
        )
        if on_iteration is not None:
            on_iteration(SplitIteration(number, tsmi, cg))
    return tsmi
