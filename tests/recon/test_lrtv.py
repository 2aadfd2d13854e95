"""LRTV against closed forms, an independent solver and its own optimality condition."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from recon.cases import dense, difference_matrix, identity_gram, make_case, primal_dual, unit_of

from mri2qmap.recon.admm import solve_regularised
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.lrtv import lrtv
from mri2qmap.recon.noise_level import intensity
from mri2qmap.recon.regulariser import SplitParameters
from mri2qmap.recon.total_variation import TotalVariation, total_variation

LONG = SplitParameters(iterations=60, cg_iterations=5, cg_reduction=0.0, cg_tolerance=1e-7)


def denoised(image, weight):
    """Minimiser of 1/2 ||X - image||^2 + weight TV(X)."""
    limit = 0.1 * intensity(image)
    regulariser = TotalVariation(weight / limit, limit)
    gram = identity_gram(len(image), tuple(image.shape[1:]))
    return solve_regularised(gram, image, image, regulariser, LONG)


@pytest.fixture(scope="module")
def case():
    return make_case((12, 14, 12))


@pytest.fixture(scope="module")
def small():
    return make_case((6, 6, 6), seed=1)


@pytest.mark.parametrize("strength", [0.25, 1.2])
def test_agrees_with_an_independent_primal_dual_solver(small, strength):
    weight = strength * unit_of(small)
    matrix, right = dense(small.gram), small.adjoint.numpy().reshape(-1).astype(complex)
    differences = difference_matrix(*small.gram.domain_shape)

    def project(dual):
        return dual / np.maximum(1, np.sqrt((np.abs(dual) ** 2).sum(0)) / weight)

    reference, dual = primal_dual(matrix, differences, right, project, 500)
    # Optimal: the gradient of the data term is balanced by a dual variable in its ball.
    residual = matrix @ reference - right + differences.T @ dual
    assert np.linalg.norm(residual) < 1e-4 * np.linalg.norm(right)

    def objective(x):
        lengths = np.sqrt((np.abs((differences @ x).reshape(3, -1)) ** 2).sum(0))
        return 0.5 * np.vdot(x, matrix @ x).real - np.vdot(x, right).real + weight * lengths.sum()

    parameters = dataclasses.replace(LONG, strength=strength)
    found = lrtv(small.gram, small.adjoint, small.initial, parameters)
    found = found.numpy().reshape(-1).astype(complex)
    scale = abs(objective(reference))
    assert objective(found) == pytest.approx(objective(reference), abs=1e-5 * scale)
    assert np.linalg.norm(found - reference) < 1e-3 * np.linalg.norm(reference)
    # The prior is at work: least squares is far away.
    start = small.initial.numpy().reshape(-1)
    assert np.linalg.norm(start - reference) > 0.1 * np.linalg.norm(reference)


def test_denoising_a_step_moves_its_halves_together():
    """A step of height h between halves of n voxels: each moves by lambda / n towards the other."""
    shape = (8, 6, 4)
    image = torch.zeros(1, *shape, dtype=torch.complex64)
    image[:, :3], image[:, 3:] = 2.0, 2.0 + 1.5j
    found = denoised(image, 0.6)
    expected = image.clone()
    expected[:, :3] += 0.6j / 3
    expected[:, 3:] -= 0.6j / 5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_denoising_a_column_is_the_taut_string():
    """One dimension: the sum of the result is the shortest path in a tube of radius lambda."""
    signal = torch.tensor([0.1, -0.2, 0.3, 1.9, 2.2, 1.8, 2.1, 0.7, 1.2, 0.9, 1.1, -0.4])
    image = signal.to(torch.complex64)[None, :, None, None].expand(1, 12, 2, 2).contiguous()
    found = denoised(image, 0.35)
    column = found[0, :, 0, 0]
    torch.testing.assert_close(
        found, column[None, :, None, None].expand_as(found), atol=1e-4, rtol=0
    )
    string = (signal - column.real).double().cumsum(0).numpy()
    assert abs(string[-1]) < 1e-3  # the mean stays
    assert np.abs(string).max() < 0.35 + 1e-3
    # Jumps only where the string touches its tube, on the side that the jump pulls to.
    jumps = np.diff(column.real.numpy())
    moved = np.abs(jumps) > 5e-3
    assert 2 <= moved.sum() < len(jumps)
    np.testing.assert_allclose(string[:-1][moved], -0.35 * np.sign(jumps[moved]), atol=2e-3)


def test_the_optimality_condition_holds(case):
    """A^H (Y - A X) lies in lambda D^H of the unit ball, and pairs with X to lambda TV(X)."""
    parameters = dataclasses.replace(LONG, strength=1.2, iterations=100)
    found = lrtv(case.gram, case.adjoint, case.initial, parameters)
    weight = 1.2 * unit_of(case)
    force = case.adjoint - case.gram(found)
    paired = float(torch.vdot(found.flatten(), force.flatten()).real)
    assert paired == pytest.approx(weight * total_variation(found), rel=5e-3)
    # <x, force> <= lambda TV(x) for any x: the unit ball, seen from the primal side.
    for image in (case.truth, case.initial, case.truth.roll(3, 1)):
        pairing = float(torch.vdot(image.flatten(), force.flatten()).real)
        assert pairing <= weight * total_variation(image) * (1 + 5e-3)


def test_the_objective_falls(case):
    values = []
    weight = 1.2 * unit_of(case)

    def objective(tsmi):
        product = torch.vdot(tsmi.flatten(), case.gram(tsmi).flatten()).real
        data = 0.5 * product - torch.vdot(tsmi.flatten(), case.adjoint.flatten()).real
        return float(data) + 0.5 * case.data_energy + weight * total_variation(tsmi)

    parameters = SplitParameters(strength=1.2, iterations=12)
    start = objective(case.initial)
    lrtv(
        case.gram,
        case.adjoint,
        case.initial,
        parameters,
        lambda i: values.append(objective(i.tsmi)),
    )
    assert values[0] < start
    assert values[-1] < 0.9 * start
    # ADMM is no descent method; once near, it may rise by a hair.
    assert all(after < before * (1 + 1e-3) for before, after in itertools.pairwise(values))
    assert values[-2] - values[-1] < 0.02 * (start - values[-1])


def test_it_is_nearer_to_the_truth_than_least_squares(case):
    def error(tsmi):
        return float((tsmi - case.truth).norm() / case.truth.norm())

    found = lrtv(case.gram, case.adjoint, case.initial, SplitParameters(strength=1.4))
    least_squares, _ = conjugate_gradient(case.gram, case.adjoint, None, 60, 1e-6)
    assert error(found) < 0.75 * min(error(case.initial), error(least_squares))


def test_no_strength_is_least_squares(case):
    def residual(tsmi):
        return float((case.adjoint - case.gram(tsmi)).norm() / case.adjoint.norm())

    parameters = SplitParameters(strength=0.0, iterations=2, cg_iterations=60, cg_reduction=0.0)
    found = lrtv(case.gram, case.adjoint, case.initial, parameters)
    assert residual(case.initial) > 5e-3
    assert residual(found) < 1e-4


def test_a_constant_image_stays(case):
    constant = torch.full_like(case.initial, 1 - 2j)
    parameters = SplitParameters(strength=10.0, iterations=5)
    found = lrtv(case.gram, case.gram(constant), constant, parameters)
    torch.testing.assert_close(found, constant, atol=1e-4, rtol=0)


def test_a_huge_strength_leaves_the_best_constant():
    """One number a coefficient; with full sampling, the mean."""
    shape = (4, 6, 4)
    image = torch.randn(
        2, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(3)
    )
    gram = identity_gram(2, shape)
    parameters = dataclasses.replace(LONG, strength=30.0, threshold=1.0)
    found = lrtv(gram, image, image, parameters)
    mean = image.mean((1, 2, 3), keepdim=True).expand_as(image)
    torch.testing.assert_close(found, mean, atol=1e-3, rtol=0)


def test_scaling_and_phase_of_the_data_carry_through(case):
    """Strength and threshold have units of their own: neither scan nor sampling scale matters."""
    parameters = SplitParameters(iterations=5)
    plain = lrtv(case.gram, case.adjoint, case.initial, parameters)
    factor = 300 * torch.exp(torch.tensor(1.1j))
    scaled = lrtv(case.gram, factor * case.adjoint, factor * case.initial, parameters)
    assert float((scaled / factor - plain).norm()) < 1e-3 * float(plain.norm())


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_the_number_of_samples_carries_through(scale):
    shape = (6, 6, 6)
    image = torch.randn(
        1, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(4)
    )
    parameters = SplitParameters(iterations=5)
    plain = lrtv(identity_gram(1, shape), image, image, parameters)
    scaled = lrtv(identity_gram(1, shape, scale), scale * image, image, parameters)
    torch.testing.assert_close(scaled, plain, atol=1e-4, rtol=0)


def test_air_around_the_object_does_not_change_the_strength():
    """Denoising of a block in a small and in a large field of view."""
    block = torch.full((1, 4, 4, 4), 1 + 1j)
    results = []
    for edge in (8, 12):
        image = torch.zeros(1, edge, edge, edge, dtype=torch.complex64)
        image[:, 2:6, 2:6, 2:6] = block
        gram = identity_gram(1, (edge, edge, edge))
        parameters = dataclasses.replace(LONG, strength=0.2, iterations=25)
        results.append(lrtv(gram, image, image, parameters)[:, 2:6, 2:6, 2:6])
    torch.testing.assert_close(results[0], results[1], atol=5e-3, rtol=0)


def test_watching(case):
    watched = []
    parameters = SplitParameters(iterations=3, cg_iterations=2, cg_reduction=0.0)
    found = lrtv(case.gram, case.adjoint, case.initial, parameters, watched.append)
    assert [i.number for i in watched] == [1, 2, 3]
    assert [i.statistics.cg_iterations for i in watched] == [2, 2, 2]
    assert torch.equal(watched[-1].tsmi, found)
    assert not torch.equal(watched[0].tsmi, watched[1].tsmi)


def test_inputs_are_left_as_they_are(case):
    adjoint, initial = case.adjoint.clone(), case.initial.clone()
    lrtv(case.gram, case.adjoint, case.initial, SplitParameters(iterations=2))
    assert torch.equal(case.adjoint, adjoint)
    assert torch.equal(case.initial, initial)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", -0.1),
        ("strength", math.nan),
        ("strength", math.inf),
        ("threshold", 0.0),
        ("threshold", -1.0),
        ("threshold", math.nan),
        ("threshold", math.inf),
        ("iterations", 0),
        ("cg_iterations", 0),
        ("cg_tolerance", -1e-6),
        ("cg_tolerance", 1.0),
        ("cg_tolerance", math.nan),
    ],
)
def test_parameters_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        SplitParameters(**{name: value})


def test_a_start_of_zero_is_refused(case):
    with pytest.raises(ValueError, match="initial_tsmi is zero"):
        lrtv(case.gram, case.adjoint, torch.zeros_like(case.initial), SplitParameters())


def test_data_that_are_not_finite_are_an_error(case):
    with pytest.raises(FloatingPointError):
        lrtv(case.gram, case.adjoint * math.nan, case.initial, SplitParameters(iterations=1))
