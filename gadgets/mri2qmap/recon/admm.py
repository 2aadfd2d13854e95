"""The ADMM that all iterative reconstructions share: its X-update and its statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.put_aside import put_aside
from mri2qmap.operators.circulant import BlockCirculant
from mri2qmap.operators.linear_operator import Identity, LinearOperator
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.recon.conjugate_gradient import CgOutcome, conjugate_gradient
from mri2qmap.recon.inner_products import euclidean_norm, inner_product
from mri2qmap.recon.iteration_statistics import IterationStatistics
from mri2qmap.recon.regulariser import Regulariser, SplitParameters
from mri2qmap.recon.saved_state import State, StateStore


@dataclass(frozen=True)
class AdmmIteration:
    """State after one iteration, passed to ``on_iteration``.

    Attributes
    ----------
    statistics
        Residuals and, where it has a value, the objective.
    tsmi
        X (s, z, y, x).
    """

    statistics: IterationStatistics
    tsmi: torch.Tensor

    @property
    def number(self) -> int:
        """Number of the iteration, from 1."""
        return self.statistics.number


class CgLimits(Protocol):
    """Limits of the conjugate gradients of an update, see `SplitParameters`."""

    @property
    def cg_iterations(self) -> int:
        """Most steps."""

    @property
    def cg_reduction(self) -> float:
        """Fraction to which the weighted residual is reduced."""

    @property
    def cg_tolerance(self) -> float:
        """Relative residual."""


@dataclass(frozen=True)
class Residuals:
    """Norms of the primal and the dual residual of one constraint, see `IterationStatistics`."""

    primal: float
    dual: float


@dataclass(frozen=True)
class UpdateOutcome:
    """Result of an X-update.

    Attributes
    ----------
    tsmi
        X (s, z, y, x).
    cg
        How the solve ended.
    residuals
        One for each regulariser.
    data_term, objective
        See `IterationStatistics`.
    """

    tsmi: torch.Tensor
    cg: CgOutcome
    residuals: tuple[Residuals, ...]
    data_term: float
    objective: float | None


class TsmiUpdate:
    r"""X-updates of an ADMM.

    The minimiser of

    .. math::

        \tfrac12 \|A X - Y\|^2 + \tfrac{\gamma}{2} \|X - T\|^2
        + \sum_i \tfrac{\rho_i}{2} \|L_i X - Z_i + P_i\|^2

    after one step of each regulariser, which updates Z_i and P_i. It is approximated by a few
    warm-started conjugate-gradient steps on the normal equations.

    Parameters
    ----------
    gram
        A^H A.
    adjoint_tsmi
        A^H Y (s, z, y, x), complex64.
    initial_tsmi
        X0 (s, z, y, x); its norm is the unit of primal residuals.
    regularisers
        Terms with their rho, Z and P; they may be empty.
    limits
        Of the conjugate gradients of each update.
    preconditioned
        Whether to precondition with the circulant nearest to the gram plus the quadratic terms.
    """

    def __init__(
        self,
        gram: ToeplitzGram,
        adjoint_tsmi: torch.Tensor,
        initial_tsmi: torch.Tensor,
        regularisers: Sequence[Regulariser],
        limits: CgLimits,
        preconditioned: bool = True,
    ) -> None:
        self._gram = gram
        self._adjoint_tsmi = adjoint_tsmi
        self._regularisers = regularisers
        self._limits = limits
        self._preconditioned = preconditioned
        self._spectrum: torch.Tensor | float = 0.0
        for regulariser in regularisers:
            spectrum = regulariser.spectrum(gram.domain_shape)
            if isinstance(spectrum, torch.Tensor):
                spectrum = spectrum.to(adjoint_tsmi.device)
            self._spectrum = self._spectrum + spectrum
        self._inverse: BlockCirculant | None = None
        self._inverse_penalty = math.nan
        self._primal_unit = euclidean_norm(initial_tsmi) or 1.0
        self._dual_unit = euclidean_norm(adjoint_tsmi) or 1.0

    def __call__(
        self,
        tsmi: torch.Tensor,
        target: torch.Tensor | None = None,
        penalty: float = 0.0,
        idle: Sequence[object] = (),
    ) -> UpdateOutcome:
        """Step all regularisers from X (s, z, y, x), and update X.

        Parameters
        ----------
        tsmi
            X of the previous iteration.
        target
            T (s, z, y, x), which is overwritten; none leaves the term out.
        penalty
            gamma.
        idle
            Objects with tensors that are not needed meanwhile; to spare memory, they are put aside,
            and so are the variables of the regularisers.

        Raises
        ------
        FloatingPointError
            If the result is not finite.
        """
        spare = self._gram.spare_memory
        with put_aside(idle if spare else (), needed=(tsmi,)):
            right_hand_side, residuals = self._right_hand_side(tsmi, target, penalty)
            with put_aside(self._regularisers if spare else ()):
                solution, cg = conjugate_gradient(
                    self._operator(penalty),
                    right_hand_side,
                    tsmi,
                    self._limits.cg_iterations,
                    self._limits.cg_tolerance,
                    self._limits.cg_reduction,
                    preconditioner=self._preconditioner(penalty),
                )
            del right_hand_side
            data_term, objective = self._objective(solution, cg, penalty)
        if target is not None:
            objective = None
        return UpdateOutcome(solution, cg, residuals, data_term, objective)

    def _right_hand_side(
        self, tsmi: torch.Tensor, target: torch.Tensor | None, penalty: float
    ) -> tuple[torch.Tensor, tuple[Residuals, ...]]:
        """Step all regularisers; return the right-hand side of the update and their residuals."""
        right_hand_side = None
        if target is not None:
            right_hand_side = target.mul_(penalty).add_(self._adjoint_tsmi)
        residuals = []
        for regulariser in self._regularisers:
            step = regulariser.step(tsmi)
            if right_hand_side is None:
                right_hand_side = step.pull.add_(self._adjoint_tsmi)
            else:
                right_hand_side.add_(step.pull)
            residuals.append(Residuals(step.primal, step.dual))
            del step  # and its memory
        if right_hand_side is None:
            right_hand_side = self._adjoint_tsmi
        return right_hand_side, tuple(residuals)

    def statistics(
        self,
        number: int,
        penalty: float,
        outcome: UpdateOutcome,
        further: Iterable[Residuals] = (),
        sigma: float | None = None,
    ) -> IterationStatistics:
        """Statistics of an iteration.

        Parameters
        ----------
        number, penalty, sigma
            See `IterationStatistics`.
        outcome
            Its X-update.
        further
            Residuals of constraints other than those of the regularisers.
        """
        residuals = (*outcome.residuals, *further)
        return IterationStatistics(
            number,
            penalty,
            outcome.cg.iterations,
            outcome.cg.relative_residual,
            math.hypot(*(r.primal for r in residuals)) / self._primal_unit,
            math.hypot(*(r.dual for r in residuals)) / self._dual_unit,
            outcome.data_term,
            outcome.objective,
            sigma,
        )

    def _operator(self, penalty: float) -> LinearOperator:
        """A^H A + gamma + sum of rho L^H L."""
        shape = self._gram.domain_shape
        operator: LinearOperator = self._gram
        if penalty:
            operator = operator + penalty * Identity(shape)
        for regulariser in self._regularisers:
            operator = operator + regulariser.quadratic(shape)
        return operator

    def _preconditioner(self, penalty: float) -> BlockCirculant | None:
        """Inverse of the circulant for this gamma, kept while gamma stays the same."""
        if not self._preconditioned:
            return None
        if self._inverse is None or penalty != self._inverse_penalty:
            self._inverse = None  # before the next one takes the same memory
            self._inverse = self._gram.circulant.inverse(penalty + self._spectrum)
            self._inverse_penalty = penalty
        return self._inverse

    def _objective(
        self, tsmi: torch.Tensor, cg: CgOutcome, penalty: float
    ) -> tuple[float, float | None]:
        """Data term and objective of the solution, without another application of the gram."""
        quadratic = penalty / 2 * euclidean_norm(tsmi) ** 2 if penalty else 0.0
        values: list[float | None] = []
        for regulariser in self._regularisers:
            energy, value = regulariser.evaluate(tsmi)
            quadratic += energy
            values.append(value)
        data_term = cg.quadratic_form / 2 - quadratic - inner_product(tsmi, self._adjoint_tsmi)
        known = [value for value in values if value is not None]
        return data_term, data_term + sum(known) if len(known) == len(values) else None


def solve_regularised(
    gram: ToeplitzGram,
    adjoint_tsmi: torch.Tensor,
    initial_tsmi: torch.Tensor,
    regulariser: Regulariser,
    parameters: SplitParameters,
    on_iteration: Callable[[AdmmIteration], object] | None = None,
    store: StateStore | None = None,
) -> torch.Tensor:
    r"""Minimise 1/2 ||A X - Y||^2 + lambda R(L X).

    ADMM, with the X-update inexact::

        X = X0,  P = 0
        for t = 1 ... T
            Z = prox_{lambda / rho R}(L X + P),  P = L X + P - Z
            X = argmin 1/2 ||A X - Y||^2 + rho/2 ||L X - Z + P||^2

    The last line is a few warm-started conjugate-gradient steps on
    (A^H A + rho L^H L) X = A^H Y + rho L^H (Z - P), preconditioned with the nearest circulant (see
    `TsmiUpdate`). FISTA, which publications of these methods use, is limited to steps of the
    inverse of the largest eigenvalue of A^H A, which is thousands of times the mean one because of
    the dense samples at the centre of k-space.

    Parameters
    ----------
    gram
        A^H A.
    adjoint_tsmi
        A^H Y (s, z, y, x), complex64.
    initial_tsmi
        X0 (s, z, y, x).
    regulariser
        R with lambda and rho.
    parameters
        Numbers of iterations.
    on_iteration
        Called after each iteration.
    store
        Keeps the state of each iteration; if it has one, the iterations go on from it.

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
    update = TsmiUpdate(
        gram,
        adjoint_tsmi,
        initial_tsmi,
        (regulariser,),
        parameters,
    )
    tsmi, done = initial_tsmi, 0
    store = store or StateStore()
    if (state := store.load()) is not None:
        tsmi, done = state["tsmi"], int(state["iterations"])
        regulariser.restore(state)
    for number in range(done + 1, parameters.iterations + 1):
        raise_if_cancelled()
        outcome = update(tsmi)
        tsmi = outcome.tsmi
        if on_iteration is not None:
            statistics = update.statistics(number, regulariser.penalty, outcome)
            on_iteration(AdmmIteration(statistics, tsmi))
        store.save(partial(_state_after, number, tsmi, regulariser))
    return tsmi


def _state_after(number: int, tsmi: torch.Tensor, regulariser: Regulariser) -> State:
    return {"iterations": torch.tensor(number), "tsmi": tsmi, **regulariser.state()}
