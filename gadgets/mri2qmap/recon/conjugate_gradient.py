"""Conjugate gradients for Hermitian positive semidefinite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.recon.inner_products import dot, euclidean_norm, fetched, squared_norm


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

    Inner products and norms are accumulated in double precision, whatever that of the tensors. Each
    step waits for the device once.

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
    sizes = _sizes(residual, improved)
    del improved  # its memory is free while the operator is applied
    energy, norm = fetched(*sizes)
    enough = reduction**2 * energy
    taken = 0
    while taken < max_iterations and norm > tolerance * target and energy > enough:
        raise_if_cancelled()
        product = operator(direction)
        curvature = dot(direction, product)
        # No descent along a direction whose curvature is not positive in the precision of the
        # numbers. On a GPU, this is known at the end of the step.
        step = torch.where(curvature <= 0, 0.0, sizes[0] / curvature)
        _add_multiple(solution, direction, step)
        _add_multiple(residual, product, -step)
        del product
        improved = residual if preconditioner is None else preconditioner(residual)
        sizes = _sizes(residual, improved)
        previous = energy
        bent, energy, norm = fetched(curvature, *sizes)
        if bent <= 0:
            break
        direction.mul_(energy / previous).add_(improved)
        del improved
        taken += 1
        if on_iteration is not None:
            on_iteration()
    if not norm < float("inf"):
        raise FloatingPointError("conjugate gradients: the residual is not finite")
    along, left = fetched(dot(solution, right_hand_side), dot(solution, residual))
    return solution, CgOutcome(taken, norm / target, along - left)


def _sizes(residual: torch.Tensor, improved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted square () and norm () of the residual."""
    square = squared_norm(residual)
    return square if improved is residual else dot(residual, improved), square.sqrt()


def _add_multiple(total: torch.Tensor, x: torch.Tensor, factor: torch.Tensor) -> None:
    """Add a real multiple () of a tensor in place, which may still be computed by the device."""
    if total.is_complex():
        total, x = torch.view_as_real(total), torch.view_as_real(x.resolve_conj())
    total.addcmul_(x, factor)
