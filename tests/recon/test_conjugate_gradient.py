import pytest
import torch

from mri2qmap.recon.conjugate_gradient import conjugate_gradient


def system(n=12, condition=100.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n, n, dtype=torch.complex64, generator=generator)
    basis = torch.linalg.qr(mixing)[0]
    values = torch.logspace(0, torch.tensor(condition).log10().item(), n)
    matrix = basis @ torch.diag(values).to(torch.complex64) @ basis.mH
    solution = torch.randn(n, dtype=torch.complex64, generator=generator)
    return matrix, solution, matrix @ solution


def test_solves_a_hermitian_system():
    matrix, solution, right = system()
    found, outcome = conjugate_gradient(lambda x: matrix @ x, right, None, 60, 1e-6)
    torch.testing.assert_close(found, solution, atol=1e-3, rtol=1e-3)
    assert outcome.relative_residual <= 1e-6
    assert outcome.iterations < 60


def test_finite_termination_with_few_distinct_eigenvalues():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 5.0, 5.0, 5.0, 9.0]))
    right = torch.arange(1.0, 7.0)
    found, outcome = conjugate_gradient(lambda x: matrix @ x, right, None, 20, 1e-5)
    assert outcome.iterations <= 3
    torch.testing.assert_close(found, right / matrix.diag())


def test_preconditioner_saves_steps_and_leaves_the_solution():
    matrix, solution, right = system(condition=1e4)
    near = torch.linalg.inv(matrix + 0.1 * torch.eye(len(right)))
    _, plain = conjugate_gradient(lambda x: matrix @ x, right, None, 200, 1e-5)
    found, outcome = conjugate_gradient(
        lambda x: matrix @ x, right, None, 200, 1e-5, preconditioner=lambda x: near @ x
    )
    assert outcome.iterations <= 4 < plain.iterations
    torch.testing.assert_close(found, solution, atol=1e-2, rtol=1e-2)
    residual = float((right - matrix @ found).norm() / right.norm())
    assert outcome.relative_residual == pytest.approx(residual, abs=1e-5)


def test_stops_at_the_tolerance_and_reports_the_true_residual():
    matrix, _, right = system(condition=1e4)
    found, outcome = conjugate_gradient(lambda x: matrix @ x, right, None, 50, 0.1)
    residual = float((right - matrix @ found).norm() / right.norm())
    assert outcome.relative_residual <= 0.1
    assert outcome.relative_residual == pytest.approx(residual, rel=1e-2)
    quadratic_form = float(torch.vdot(found, matrix @ found).real)
    assert outcome.quadratic_form == pytest.approx(quadratic_form, rel=1e-4)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_stops_when_the_weighted_residual_is_reduced(preconditioned):
    matrix, solution, right = system(condition=1e3)
    weight = torch.linalg.inv(matrix + 200 * torch.eye(len(right)))
    start = 1.05 * solution + 0.01
    made = {"preconditioner": lambda x: weight @ x} if preconditioned else {}

    def size(x):
        residual = right - matrix @ x
        weighted = weight @ residual if preconditioned else residual
        return float(torch.vdot(residual, weighted).real) ** 0.5

    def solve(most, reduction):
        return conjugate_gradient(lambda x: matrix @ x, right, start, most, 0.0, reduction, **made)

    found, outcome = solve(100, 0.05)
    before, _ = solve(outcome.iterations - 1, 0.0)
    assert size(found) <= 0.05 * size(start) < size(before)
    assert outcome.iterations > 1
    same, _ = solve(outcome.iterations, 0.0)
    assert torch.equal(found, same)


def test_stops_at_the_number_of_steps():
    matrix, _, right = system(condition=1e4)
    steps = []
    _, outcome = conjugate_gradient(
        lambda x: matrix @ x, right, None, 4, 0.0, on_iteration=lambda: steps.append(1)
    )
    assert outcome.iterations == 4 == len(steps)


def test_warm_start_at_the_solution_takes_no_step():
    matrix, solution, right = system()
    found, outcome = conjugate_gradient(lambda x: matrix @ x, right, solution, 10, 1e-4)
    assert outcome.iterations == 0
    assert torch.equal(found, solution)
    assert found is not solution


def test_nothing_on_the_right_is_zero():
    found, outcome = conjugate_gradient(lambda x: x, torch.zeros(3), torch.ones(3))
    assert float(found.abs().max()) == 0
    assert outcome.iterations == 0


def test_data_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        conjugate_gradient(lambda x: x * float("nan"), torch.ones(3))


def test_the_residual_is_measured_in_double_precision():
    """In single precision the norm of so many numbers errs by 1e-4."""
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(5, 64, 64, 64, dtype=torch.complex64, generator=generator)
    start = right.clone()
    start[0, 0, 0, 0] += 100
    _, outcome = conjugate_gradient(lambda x: x, right, start, max_iterations=0)
    target = torch.view_as_real(right).double().square().sum().sqrt()
    assert outcome.relative_residual == pytest.approx(100 / float(target), rel=1e-6)
