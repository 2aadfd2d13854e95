"""Conjugate gradients for Hermitian positive semidefinite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mri2qmap.recon.inner_products import euclidean_norm, inner_product


@dataclass(frozen=True)
class CgOutcome:
    """Result of a solve.

    Attributes
    ----------
    iterations
        Steps, each with one application of the operator; a start that is given costs one more.
    relative_residual
        Norm of the residual over the norm of the right-hand side.
    quadratic_form
        Re <x, operator(x)> of the solution x, as Re <x, right_hand_side - residual>.
    """

    iterations: int
    relative_residual: float
    quadratic_form: float


def conjugate_gradient(
    operator: Callable[[torch.Tensor], torch.Tensor],
    right_hand_side: torch.Tensor,
    initial: torch.Tensor | None = None,
    max_iterations: int = 10,
    tolerance: float = 1e-4,
    reduction: float = 0.0,
    on_iteration: Callable[[], object] | None = None,
    preconditioner: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, CgOutcome]:
    """Solve operator(x) = right_hand_side.

    Inner products and norms are accumulated in double precision, whatever that of the tensors.

    Parameters
    ----------
    operator
        Hermitian positive semidefinite map on tensors of the right-hand side's shape.
    right_hand_side
        Complex or real tensor of any shape.
    initial
        First iterate; none means zero.
    max_iterations
        Maximum number of steps.
    tolerance
        Relative residual at which the iteration stops.
    reduction
        The iteration also stops when the residual, weighted with the preconditioner, is at most
        this fraction of the first one.
    on_iteration
        Called after each step.
    preconditioner
        Hermitian positive definite approximation of the inverse of the operator. None means the
        identity.

    Returns
    -------
    solution
        The last iterate.
    outcome
        Steps taken and residual reached.

    Raises
    ------
    FloatingPointError
        If the residual is not finite: the operator or the data contain NaN or infinity.

    References
    ----------
    Hestenes and Stiefel, J Res Natl Bur Stand 49:409 (1952); with a preconditioner: Saad,
    Iterative Methods for Sparse Linear Systems, algorithm 9.1 (2003).
    """
    target = euclidean_norm(right_hand_side)
    if target == 0:
        return torch.zeros_like(right_hand_side), CgOutcome(0, 0.0, 0.0)
    if initial is None:
        solution = torch.zeros_like(right_hand_side)
        residual = right_hand_side.clone()
    else:
        solution = initial.clone()
        residual = right_hand_side - operator(solution)
    improved = residual if preconditioner is None else preconditioner(residual)
    direction = improved.clone()
    energy = inner_product(residual, improved)
    del improved  # its memory is free while the operator is applied
    norm = euclidean_norm(residual)
    enough = reduction**2 * energy
    taken = 0
    while taken < max_iterations and norm > tolerance * target and energy > enough:
        product = operator(direction)
        curvature = inner_product(direction, product)
        if curvature <= 0:
            break  # no further descent along this direction in the precision of the numbers
        step = energy / curvature
        solution.add_(direction, alpha=step)
        residual.sub_(product, alpha=step)
        del product
        improved = residual if preconditioner is None else preconditioner(residual)
        previous, energy = energy, inner_product(residual, improved)
        norm = euclidean_norm(residual)
        direction.mul_(energy / previous).add_(improved)
        del improved
        taken += 1
        if on_iteration is not None:
            on_iteration()
    if not norm < float("inf"):
        raise FloatingPointError("conjugate gradients: the residual is not finite")
    quadratic_form = inner_product(solution, right_hand_side) - inner_product(solution, residual)
    return solution, CgOutcome(taken, norm / target, quadratic_form)
