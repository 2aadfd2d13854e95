"""Conjugate gradients for Hermitian positive semidefinite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CgOutcome:
    """How a solve ended.

    Attributes
    ----------
    iterations
        Applications of the operator, beyond the one that a warm start costs.
    relative_residual
        Norm of the residual over the norm of the right-hand side.
    """

    iterations: int
    relative_residual: float


def conjugate_gradient(
    operator: Callable[[torch.Tensor], torch.Tensor],
    right_hand_side: torch.Tensor,
    initial: torch.Tensor | None = None,
    max_iterations: int = 10,
    tolerance: float = 1e-4,
    on_iteration: Callable[[], object] | None = None,
) -> tuple[torch.Tensor, CgOutcome]:
    """Solve operator(x) = right_hand_side.

    Parameters
    ----------
    operator
        Hermitian positive semidefinite map on tensors of the right-hand side's shape.
    right_hand_side
        Complex or real tensor of any shape.
    initial
        Start of the iteration; none means zero.
    max_iterations
        Stop after this many steps.
    tolerance
        Stop when the relative residual has fallen to this.
    on_iteration
        Called after each step.

    Returns
    -------
    solution
        The last iterate.
    outcome
        Steps taken and residual reached.

    Raises
    ------
    FloatingPointError
        If the residual stops being finite: the operator or the data hold NaN or infinity.

    References
    ----------
    Hestenes and Stiefel, J Res Natl Bur Stand 49:409 (1952).
    """
    target = float(torch.linalg.vector_norm(right_hand_side))
    if target == 0:
        return torch.zeros_like(right_hand_side), CgOutcome(0, 0.0)
    if initial is None:
        solution = torch.zeros_like(right_hand_side)
        residual = right_hand_side.clone()
    else:
        solution = initial.clone()
        residual = right_hand_side - operator(solution)
    direction = residual.clone()
    energy = _inner(residual, residual)
    taken = 0
    while taken < max_iterations and energy**0.5 > tolerance * target:
        product = operator(direction)
        curvature = _inner(direction, product)
        if curvature <= 0:
            break  # nothing left to gain along this direction, to the precision of the numbers
        step = energy / curvature
        solution.add_(direction, alpha=step)
        residual.sub_(product, alpha=step)
        previous, energy = energy, _inner(residual, residual)
        direction.mul_(energy / previous).add_(residual)
        taken += 1
        if on_iteration is not None:
            on_iteration()
    if not energy < float("inf"):
        raise FloatingPointError("conjugate gradients: the residual is not finite")
    return solution, CgOutcome(taken, energy**0.5 / target)


def _inner(a: torch.Tensor, b: torch.Tensor) -> float:
    """Real part of the inner product, which is the whole of it for a Hermitian operator."""
    return float(torch.vdot(a.reshape(-1), b.reshape(-1)).real)
