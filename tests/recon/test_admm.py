"""The shared ADMM: iterates, residuals and objectives against a textbook ADMM of dense matrices."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from recon.cases import dense, difference_matrix, make_case

from mri2qmap.operators import ToeplitzGram
from mri2qmap.recon import (
    DenoiserRegulariser,
    IterationStatistics,
    LocallyLowRank,
    SplitParameters,
    TotalVariation,
    TsmiUpdate,
    solve_regularised,
)
from mri2qmap.recon.locally_low_rank import Blocks

SHAPE = (4, 6, 4)
EXACT = SplitParameters(iterations=6, cg_iterations=60, cg_reduction=0.0, cg_tolerance=1e-7)


@dataclasses.dataclass
class Dense:
    """The least-squares problem in double precision."""

    case: object

    def __post_init__(self):
        self.matrix = dense(self.case.gram)
        self.right = self.case.adjoint.numpy().reshape(-1).astype(complex)
        self.start = self.case.initial.numpy().reshape(-1).astype(complex)

    def data_term(self, x):
        return 0.5 * np.vdot(x, self.matrix @ x).real - np.vdot(x, self.right).real


@pytest.fixture(scope="module")
def problem():
    return Dense(make_case(SHAPE, seed=1))


@dataclasses.dataclass
class Term:
    """A regulariser of the package, and the same by its L, its proximal operator and its value.

    Arrays are flat; `prox` and `value` take L X.
    """

    regulariser: object
    matrix: np.ndarray
    prox: object
    value: object


def total_variation_term(problem):
    mean = problem.case.gram.mean_diagonal
    rho, limit = 0.4 * mean, 0.08
    # Half the strength in one half of the volume.
    weights = torch.ones(SHAPE)
    weights[:2] = 0.5
    d = difference_matrix(*problem.case.gram.domain_shape).toarray()
    factor = np.tile(weights.numpy().reshape(-1), 2)

    def prox(v):
        v = v.reshape(3, -1)
        length = np.sqrt((abs(v) ** 2).sum(0))
        return (v * np.maximum(1 - limit * factor / np.maximum(length, 1e-30), 0)).reshape(-1)

    def value(v):
        return rho * limit * (factor * np.sqrt((abs(v.reshape(3, -1)) ** 2).sum(0))).sum()

    return Term(TotalVariation(rho, limit, weights), d, prox, value)


def low_rank_term(problem):
    mean = problem.case.gram.mean_diagonal
    rho, limit = 0.5 * mean, 0.2
    blocks = Blocks(2)
    shape = problem.case.gram.domain_shape

    def matrices(v):
        return blocks.cut(torch.from_numpy(v.reshape(shape))).numpy()

    def prox(v):
        u, values, w = np.linalg.svd(matrices(v), full_matrices=False)
        shrunk = (u * np.maximum(values - limit, 0)[:, None, :]) @ w
        return blocks.join(torch.from_numpy(shrunk), shape[1:]).numpy().reshape(-1)

    def value(v):
        return rho * limit * np.linalg.svd(matrices(v), compute_uv=False).sum()

    size = math.prod(shape)
    return Term(LocallyLowRank(rho, limit, (blocks,)), np.eye(size), prox, value)


def denoiser_term(problem):
    rho = 0.6 * problem.case.gram.mean_diagonal
    size = math.prod(problem.case.gram.domain_shape)
    regulariser = DenoiserRegulariser(rho, lambda v: 0.8 * v)
    return Term(regulariser, np.eye(size), lambda v: 0.8 * v, None)


TERMS = {
    "total variation": total_variation_term,
    "locally low rank": low_rank_term,
    "denoiser": denoiser_term,
}


def textbook(problem, term, iterations):
    """X, primal and dual residual and objective of each iteration, the X-update by a solve."""
    rho, matrix = term.regulariser.penalty, term.matrix
    inverse = np.linalg.inv(problem.matrix + rho * matrix.T @ matrix)
    x = problem.start
    z, p = matrix @ x, np.zeros(len(matrix), dtype=complex)
    for _ in range(iterations):
        previous = z
        z = term.prox(matrix @ x + p)
        p = p + matrix @ x - z
        primal = np.linalg.norm(matrix @ x - z) / np.linalg.norm(problem.start)
        dual = np.linalg.norm(rho * matrix.T @ (z - previous)) / np.linalg.norm(problem.right)
        x = inverse @ (problem.right + rho * matrix.T @ (z - p))
        objective = None
        if term.value is not None:
            objective = problem.data_term(x) + term.value(matrix @ x)
        yield x, primal, dual, problem.data_term(x), objective


def run(problem, regulariser, parameters):
    states = []
    case = problem.case
    solve_regularised(case.gram, case.adjoint, case.initial, regulariser, parameters, states.append)
    return states


@pytest.mark.parametrize("kind", TERMS.values(), ids=TERMS)
def test_iterations_are_those_of_a_textbook(problem, kind):
    term = kind(problem)
    states = run(problem, term.regulariser, EXACT)
    expected = list(textbook(problem, term, EXACT.iterations))
    for number, (state, reference) in enumerate(zip(states, expected, strict=True), start=1):
        x, primal, dual, data_term, objective = reference
        found = state.tsmi.numpy().reshape(-1)
        assert np.linalg.norm(found - x) < 1e-4 * np.linalg.norm(x)
        statistics = state.statistics
        assert (statistics.number, state.number) == (number, number)
        assert statistics.penalty == term.regulariser.penalty
        assert statistics.sigma is None
        assert statistics.primal == pytest.approx(primal, rel=1e-3, abs=1e-6)
        assert statistics.dual == pytest.approx(dual, rel=1e-3, abs=1e-6)
        scale = np.vdot(x, problem.right).real
        assert statistics.data_term == pytest.approx(data_term, abs=1e-5 * scale)
        if objective is None:
            assert statistics.objective is None
        else:
            assert statistics.objective == pytest.approx(objective, abs=1e-5 * scale)
            assert statistics.objective > statistics.data_term + 1e-3 * scale


@pytest.mark.parametrize("kind", TERMS.values(), ids=TERMS)
def test_an_inexact_update_reports_the_terms_of_its_own_iterate(problem, kind):
    """Two steps of conjugate gradients: the data term is still that of the X reported."""
    term = kind(problem)
    parameters = SplitParameters(iterations=4, cg_iterations=2, cg_reduction=0.0)
    for state in run(problem, term.regulariser, parameters):
        x = state.tsmi.numpy().reshape(-1).astype(complex)
        scale = np.vdot(x, problem.right).real
        assert state.statistics.cg_iterations == 2
        assert state.statistics.cg_residual > 1e-5
        assert state.statistics.data_term == pytest.approx(problem.data_term(x), abs=1e-5 * scale)
        if term.value is not None:
            objective = problem.data_term(x) + term.value(term.matrix @ x)
            assert state.statistics.objective == pytest.approx(objective, abs=1e-5 * scale)


@pytest.mark.parametrize("kind", TERMS.values(), ids=TERMS)
def test_residuals_of_a_convex_problem_go_to_zero(problem, kind):
    parameters = dataclasses.replace(EXACT, iterations=250)
    states = run(problem, kind(problem).regulariser, parameters)
    first, last = states[0].statistics, states[-1].statistics
    assert min(first.primal, first.dual) > 1e-3
    assert last.primal < 1e-3 * first.primal
    assert last.dual < 1e-3 * first.dual
    if last.objective is not None:
        middle = states[-100].statistics
        assert last.objective == pytest.approx(middle.objective, rel=1e-4)


def test_several_regularisers_add_up(problem):
    """Of the minimum of all terms, by a textbook with the constraints stacked."""
    terms = [kind(problem) for kind in TERMS.values()]
    regularisers = [term.regulariser for term in terms]
    case = problem.case
    update = TsmiUpdate(case.gram, case.adjoint, case.initial, regularisers, EXACT)
    x = problem.start
    z = [term.matrix @ x for term in terms]
    p = [np.zeros(len(term.matrix), dtype=complex) for term in terms]
    operator = problem.matrix + sum(t.regulariser.penalty * t.matrix.T @ t.matrix for t in terms)
    tsmi = case.initial
    for number in (1, 2, 3):
        primal = dual = 0.0
        right = problem.right
        for i, term in enumerate(terms):
            rho, matrix, previous = term.regulariser.penalty, term.matrix, z[i]
            z[i] = term.prox(matrix @ x + p[i])
            p[i] = p[i] + matrix @ x - z[i]
            primal += np.linalg.norm(matrix @ x - z[i]) ** 2
            dual += np.linalg.norm(rho * matrix.T @ (z[i] - previous)) ** 2
            right = right + rho * matrix.T @ (z[i] - p[i])
        x = np.linalg.solve(operator, right)
        outcome = update(tsmi)
        tsmi = outcome.tsmi
        statistics = update.statistics(number, 1.0, outcome)
        assert np.linalg.norm(tsmi.numpy().reshape(-1) - x) < 1e-4 * np.linalg.norm(x)
        scale = np.linalg.norm(problem.start), np.linalg.norm(problem.right)
        assert statistics.primal == pytest.approx(math.sqrt(primal) / scale[0], rel=1e-3)
        assert statistics.dual == pytest.approx(math.sqrt(dual) / scale[1], rel=1e-3)
        assert statistics.objective is None  # a denoiser has no value


def test_an_update_towards_a_target(problem):
    """With gamma, and nothing else: (A^H A + gamma) X = A^H Y + gamma T."""
    case = problem.case
    for preconditioned in (True, False):
        limits = dataclasses.replace(EXACT, cg_iterations=200)
        update = TsmiUpdate(case.gram, case.adjoint, case.initial, (), limits, preconditioned)
        for gamma in (0.3, 30.0):
            target = case.truth.clone()
            outcome = update(case.initial, target, gamma)
            expected = np.linalg.solve(
                problem.matrix + gamma * np.eye(len(problem.matrix)),
                problem.right + gamma * case.truth.numpy().reshape(-1),
            )
            found = outcome.tsmi.numpy().reshape(-1).astype(complex)
            assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
            scale = np.vdot(found, problem.right).real
            assert outcome.data_term == pytest.approx(problem.data_term(found), abs=1e-5 * scale)
            assert outcome.objective is None


def test_statistics_cost_no_application_of_the_gram(problem):
    class Counting(ToeplitzGram):
        applications = 0

        def forward(self, x):
            Counting.applications += 1
            return super().forward(x)

    gram = Counting(problem.case.gram.kernels)
    counted = dataclasses.replace(problem.case, gram=gram)
    parameters = SplitParameters(iterations=3, cg_iterations=2, cg_reduction=0.0, cg_tolerance=0.0)
    run(
        dataclasses.replace(problem, case=counted),
        total_variation_term(problem).regulariser,
        parameters,
    )
    dense_columns = math.prod(gram.domain_shape)  # of the reference
    assert Counting.applications - dense_columns == 3 * (2 + 1)  # a step each, and the warm start


def test_a_scan_of_zeros_has_statistics(problem):
    case = problem.case
    zeros = torch.zeros_like(case.initial)
    update = TsmiUpdate(case.gram, zeros, zeros, (TotalVariation(1.0, 0.1),), SplitParameters())
    outcome = update(zeros)
    assert torch.equal(outcome.tsmi, zeros)
    assert update.statistics(1, 1.0, outcome) == IterationStatistics(
        1, 1.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0
    )


def test_statistics_as_json_and_as_a_line():
    statistics = IterationStatistics(3, 2.5, 2, 1e-3, 0.5, math.inf, -7.0, math.nan, 0.1)
    values = json.loads(json.dumps(statistics.as_dict(), allow_nan=False))
    assert values == {
        "number": 3,
        "penalty": 2.5,
        "cg_iterations": 2,
        "cg_residual": 1e-3,
        "primal": 0.5,
        "dual": None,
        "data_term": -7.0,
        "objective": None,
        "sigma": 0.1,
    }
    line = str(IterationStatistics(16, 2.5, 2, 1.25e-3, 0.5, 0.25, -7.0, -6.5))
    assert line == (
        "iteration 16: primal residual 5.00e-01, dual residual 2.50e-01, conjugate gradients 2 "
        "steps to 1.25e-03, objective -6.5"
    )
