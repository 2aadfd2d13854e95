"""LRTV: a TSMI of low rank and small total variation, solved by ADMM."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.conjugate_gradient import CgOutcome, conjugate_gradient
from mri2qmap.recon.total_variation import SplitVariation


@dataclass(frozen=True)
class LrtvParameters:
    """Parameters of `lrtv`.

    Attributes
    ----------
    strength
        lambda, in units of the mean diagonal of A^H A times the intensity of X0, so that the
        scaling of the scan and the number of its samples do not matter.
    iterations
        ADMM iterations T.
    cg_iterations, cg_tolerance
        Limits of each k-space update: preconditioned steps and relative residual. The residual is
        dominated by the densely sampled centre of k-space, hence the small tolerance.
    threshold
        lambda / rho, in units of the intensity of X0: the jump between neighbours that an
        iteration takes away. It sets the pace of the iterations, not their limit.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    strength: float = 0.1
    iterations: int = 20
    cg_iterations: int = 2
    cg_tolerance: float = 1e-5
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength must be 0 or more, got {self.strength}")
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold must be positive, got {self.threshold}")
        for name in ("iterations", "cg_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.cg_tolerance < 1:
            raise ValueError(
                f"cg_tolerance must be at least 0 and below 1, got {self.cg_tolerance}"
            )


@dataclass(frozen=True)
class LrtvIteration:
    """State after one iteration, for those who watch."""

    number: int
    tsmi: torch.Tensor
    cg: CgOutcome


def lrtv(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    parameters: LrtvParameters,
    on_iteration: Callable[[LrtvIteration], object] | None = None,
) -> torch.Tensor:
    r"""Reconstruct a TSMI from undersampled data with total variation as prior.

    The minimiser of

    .. math::

        \tfrac12 \|A X - Y\|^2 + \lambda \sum_k \mathrm{TV}(X_k)

    in which the TSMI is of low rank because A contains the temporal subspace, and TV is the
    isotropic 3D total variation of one subspace coefficient. FISTA, with which the method was
    published, takes steps as short as the largest eigenvalue of A^H A demands, which the centre
    of k-space makes thousands of times the mean one. This solves the same problem by ADMM, split
    at the finite differences D X = Z::

        X = X0,  P = 0
        for t = 1 ... T
            P = D X + P, shortened to lambda / rho;  Z = what was taken away
            X = argmin 1/2 ||A X - Y||^2 + rho/2 ||D X - Z + P||^2

    The last line is a few warm-started conjugate-gradient steps on
    (A^H A + rho D^H D) X = A^H Y + rho D^H (Z - P), preconditioned with the circulant nearest to
    it. D^H D is large at high frequencies, where A^H A is small, which helps their conditioning;
    and shortening gradients is the whole proximal step. Splitting at X itself was measured to need
    as many steps, with the inner iterations of a total-variation denoiser in each.

    Parameters
    ----------
    gram
        A^H A.
    adjoint_tsmi
        A^H Y (s, z, y, x), complex64.
    initial_tsmi
        X0 (s, z, y, x).
    parameters
        Strength of the prior and numbers of iterations.
    on_iteration
        Called after each iteration.

    Returns
    -------
        X (s, z, y, x).

    Raises
    ------
    ValueError
        If X0 is zero everywhere, which leaves the strength without a unit.

    References
    ----------
    LRTV: Golbabaee et al., Med Image Anal 69:101945 (2021); ADMM split at the gradient: Goldstein
    and Osher, SIAM J Imaging Sci 2:323 (2009).
    """
    variation = tsmi_variation(gram, initial_tsmi, parameters.strength, parameters.threshold)

    def regularised_gram(tsmi: torch.Tensor) -> torch.Tensor:
        return gram(tsmi).add_(variation.gram(tsmi))

    preconditioner = gram.circulant.inverse(variation.spectrum(gram.shape))
    tsmi = initial_tsmi
    for number in range(1, parameters.iterations + 1):
        tsmi, cg = conjugate_gradient(
            regularised_gram,
            variation.step(tsmi).add_(adjoint_tsmi),
            tsmi,
            parameters.cg_iterations,
            parameters.cg_tolerance,
            preconditioner=preconditioner,
        )
        if on_iteration is not None:
            on_iteration(LrtvIteration(number, tsmi, cg))
    return tsmi


def tsmi_variation(
    gram: ToeplitzGram, initial_tsmi: torch.Tensor, strength: float, threshold: float
) -> SplitVariation:
    """Total variation of a TSMI in the units of `LrtvParameters`, ready for iterations.

    Raises
    ------
    ValueError
        If X0 is zero everywhere, which leaves the strength without a unit.
    """
    intensity = _intensity(initial_tsmi)
    if intensity == 0:
        raise ValueError("initial_tsmi is zero everywhere")
    return SplitVariation(strength / threshold * gram.mean_diagonal, threshold * intensity)


def _intensity(tsmi: torch.Tensor) -> float:
    """Mean magnitude of the voxels, weighted by their energy: air hardly counts."""
    magnitude = torch.linalg.vector_norm(tsmi, dim=0).double()
    energy = magnitude.square()
    tiny = torch.finfo(energy.dtype).tiny
    return float((magnitude * energy).sum() / energy.sum().clamp_min(tiny))
