"""Regularisers of a least-squares problem that ADMM splits from its data term."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch

from mri2qmap.machine.value_checks import (
    MOST_ITERATIONS,
    refuse_unless_below_one,
    refuse_unless_counts,
    refuse_unless_not_negative,
    refuse_unless_positive,
)
from mri2qmap.operators.linear_operator import LinearOperator, Shape
from mri2qmap.recon.inner_products import distance
from mri2qmap.recon.noise_level import intensity, strength_unit
from mri2qmap.recon.saved_state import State


@dataclass(frozen=True)
class SplitStep:
    """Result of a step of a `Regulariser`.

    Attributes
    ----------
    pull
        rho L^H (Z - P), the part of the regulariser in the right-hand side of the X-update.
    primal
        ||L X - Z||.
    dual
        ||rho L^H (Z - previous Z)||.
    """

    pull: torch.Tensor
    primal: float
    dual: float


@dataclass
class Regulariser(ABC):
    r"""A term lambda R(L X) of an objective, split at L X = Z, with its variables Z and P.

    An ADMM iteration is::

        Z = prox_{lambda / rho R}(L X + P),  P = L X + P - Z
        X = argmin (other terms) + rho/2 ||L X - Z + P||^2

    `step` computes the first line. The second adds `quadratic` to the operator of the normal
    equations, and the pull that `step` returns to their right-hand side. X are volumes
    (..., z, y, x).

    Attributes
    ----------
    penalty
        rho.
    """

    penalty: float
    _split: torch.Tensor | None = field(default=None, init=False, repr=False)
    """rho L^H Z of the last step."""
    _multiplier: torch.Tensor | None = field(default=None, init=False, repr=False)
    """P; None before the first step, when it is zero."""

    @abstractmethod
    def step(self, volumes: torch.Tensor) -> SplitStep:
        """Update Z and P for X."""

    @abstractmethod
    def quadratic(self, shape: Shape) -> LinearOperator:
        """Operator rho L^H L on volumes of this shape."""

    @abstractmethod
    def spectrum(self, shape: Shape) -> torch.Tensor | float:
        """Eigenvalues (z, y, x) of rho L^H L in the order of the FFT, for periodic volumes."""

    @abstractmethod
    def evaluate(self, volumes: torch.Tensor) -> tuple[float, float | None]:
        """rho/2 ||L X||^2 and lambda R(L X) of X; the second is None if R has no known value."""

    def state(self) -> State:
        """Variables that `restore` needs to go on after the last step."""
        variables = {"split": self._split, "multiplier": self._multiplier}
        return {name: value for name, value in variables.items() if value is not None}

    def restore(self, state: State) -> None:
        """Go on from a `state`."""
        self._split, self._multiplier = state.get("split"), state.get("multiplier")

    def _completed(
        self, volumes: torch.Tensor, pull: torch.Tensor, split: torch.Tensor, primal: float
    ) -> SplitStep:
        """Result of a step, from ``split`` = rho L^H Z; the first previous Z is L X."""
        previous = self._split
        if previous is None:
            previous = self.quadratic(tuple(volumes.shape)) @ volumes
        self._split = split
        return SplitStep(pull, primal, distance(split, previous))


@dataclass(frozen=True)
class SplitParameters:
    """Parameters of `solve_regularised` and of a prior's strength.

    Attributes
    ----------
    strength
        lambda in units of `strength_unit`, so that neither the scaling of the scan, nor the number
        of its samples, nor its noise matters.
    iterations
        ADMM iterations T.
    cg_iterations, cg_reduction
        Limits of each k-space update: preconditioned steps, and the fraction to which the residual,
        weighted with the preconditioner, is reduced. Dense sampling needs one to three steps, R = 8
        five or more.
    cg_tolerance
        Relative residual at which an update stops, too. The residual is dominated by the densely
        sampled centre of k-space, hence the small tolerance.
    threshold
        lambda / rho, in units of the intensity of X0: the threshold of the proximal step. It sets
        the rate of convergence, not the solution.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    strength: float = 5.0
    iterations: int = 20
    cg_iterations: int = 8
    cg_reduction: float = 0.2
    cg_tolerance: float = 1e-5
    threshold: float = 0.1

    def __post_init__(self) -> None:
        refuse_unless_not_negative(self, "strength")
        refuse_unless_positive(self, "threshold")
        refuse_unless_counts(self, "iterations", "cg_iterations", most=MOST_ITERATIONS)
        refuse_unless_below_one(self, "cg_reduction", "cg_tolerance")


def split_penalty(
    strength: float, threshold: float, adjoint_tsmi: torch.Tensor, initial_tsmi: torch.Tensor
) -> tuple[float, float]:
    """Return rho and lambda / rho of a regulariser of a TSMI.

    Parameters
    ----------
    strength, threshold
        In the units of `SplitParameters`.
    adjoint_tsmi, initial_tsmi
        A^H Y and X0 (s, z, y, x).

    Raises
    ------
    ValueError
        If X0 is zero everywhere, so that there is no unit for the strength.
    """
    limit = threshold * intensity(initial_tsmi)
    return strength * strength_unit(adjoint_tsmi, initial_tsmi) / limit, limit
