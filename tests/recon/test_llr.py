"""LLR against an independent solver, its optimality condition and closed forms."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from recon.cases import dense, identity_gram, make_case, noise, unit_of

from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.llr import LlrParameters, llr
from mri2qmap.recon.locally_low_rank import Blocks, nuclear_norm
from mri2qmap.recon.noise_level import intensity

LONG = LlrParameters(
    iterations=120,
    cg_iterations=5,
    cg_reduction=0.0,
    cg_tolerance=1e-7,
    block=3,
    shifted=False,
    strength=0.6,
)


@pytest.fixture(scope="module")
def case():
    return make_case((12, 14, 12))


@pytest.fixture(scope="module")
def small():
    return make_case((6, 6, 6), seed=1)


def weight_of(case, parameters):
    """Lambda as a number."""
    return parameters.strength * unit_of(case) * parameters.block**1.5


def soft_thresholded(matrices, threshold):
    u, values, v = np.linalg.svd(matrices, full_matrices=False)
    return (u * np.maximum(values - threshold, 0)[..., None, :]) @ v


def fista(matrix, right, weight, shape, edge, iterations):
    """Beck and Teboulle's algorithm in double precision, blocks cut by numpy."""
    step = 1 / np.linalg.eigvalsh(matrix)[-1]
    counts = [n // edge for n in shape]

    def proximal(x):
        z, y, w = counts
        cells = x.reshape(-1, z, edge, y, edge, w, edge).transpose(1, 3, 5, 0, 2, 4, 6)
        matrices = cells.reshape(z * y * w, -1, edge**3)
        restored = soft_thresholded(matrices, step * weight)
        return restored.reshape(cells.shape).transpose(3, 0, 4, 1, 5, 2, 6).reshape(-1)

    solution = ahead = np.zeros(len(right), dtype=complex)
    momentum = 1.0
    for _ in range(iterations):
        size = (-1, *shape)
        following = proximal((ahead - step * (matrix @ ahead - right)).reshape(size))
        next_momentum = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / next_momentum * (following - solution)
        solution, momentum = following, next_momentum
    return solution


def test_agrees_with_fista(small):
    parameters = dataclasses.replace(LONG, strength=6.0)
    weight = weight_of(small, parameters)
    matrix, right = dense(small.gram), small.adjoint.numpy().reshape(-1).astype(complex)
    reference = fista(matrix, right, weight, small.gram.domain_shape[1:], parameters.block, 6000)
    found = llr(small.gram, small.adjoint, small.initial, parameters).numpy()

    def objective(x):
        norm = nuclear_norm(
            torch.from_numpy(x.reshape(-1, *small.gram.domain_shape[1:])), Blocks(parameters.block)
        )
        return 0.5 * np.vdot(x, matrix @ x).real - np.vdot(x, right).real + weight * norm

    flat = found.reshape(-1).astype(complex)
    scale = abs(objective(reference))
    assert objective(flat) == pytest.approx(objective(reference), abs=1e-5 * scale)
    assert np.linalg.norm(flat - reference) < 2e-3 * np.linalg.norm(reference)
    # The prior is at work: least squares is far away, and blocks have lost ranks.
    start = small.initial.numpy().reshape(-1)
    assert np.linalg.norm(start - reference) > 0.1 * np.linalg.norm(reference)
    values = torch.linalg.svdvals(Blocks(3).cut(torch.from_numpy(found)))
    assert int((values < 1e-3 * values.max()).sum()) > 0


def test_the_optimality_condition_holds(case):
    """A^H (Y - A X) lies in lambda times the dual ball, and pairs with X to lambda ||X||."""
    parameters = dataclasses.replace(LONG, block=4)
    found = llr(case.gram, case.adjoint, case.initial, parameters)
    weight, blocks = weight_of(case, parameters), Blocks(4)
    force = case.adjoint - case.gram(found)
    largest = torch.linalg.matrix_norm(blocks.cut(force), ord=2).max()
    assert float(largest) < weight * 1.02
    paired = float(torch.vdot(found.flatten(), force.flatten()).real)
    assert paired == pytest.approx(weight * nuclear_norm(found, blocks), rel=5e-3)


def test_full_sampling_is_soft_thresholding():
    shape = (8, 8, 4)
    image = torch.randn(
        2, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(3)
    )
    gram = identity_gram(2, shape, scale=7.0)
    parameters = LlrParameters(
        strength=0.5, iterations=60, cg_iterations=3, cg_reduction=0.0, block=4, shifted=False
    )
    found = llr(gram, 7.0 * image, image, parameters)
    blocks = Blocks(4)
    brightness = intensity(image)
    threshold = 0.5 * noise(image) * (noise(image) / brightness) ** (1 / 3) * 8
    matrices = soft_thresholded(blocks.cut(image).numpy(), threshold).astype(np.complex64)
    expected = blocks.join(torch.from_numpy(matrices), shape)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert 0.1 < float(expected.norm() / image.norm()) < 0.9


def test_no_strength_is_least_squares(case):
    parameters = LlrParameters(strength=0.0, iterations=2, cg_iterations=60, cg_reduction=0.0)
    found = llr(case.gram, case.adjoint, case.initial, parameters)
    residual = float((case.adjoint - case.gram(found)).norm() / case.adjoint.norm())
    assert residual < 1e-4


@pytest.mark.parametrize("shifted", [False, True])
def test_it_is_nearer_to_the_truth_than_least_squares(case, shifted):
    def error(tsmi):
        return float((tsmi - case.truth).norm() / case.truth.norm())

    parameters = LlrParameters(strength=1.2, block=4, shifted=shifted)
    found = llr(case.gram, case.adjoint, case.initial, parameters)
    least_squares, _ = conjugate_gradient(case.gram, case.adjoint, None, 60, 1e-6)
    assert error(found) < 0.93 * min(error(case.initial), error(least_squares))


def test_scaling_and_phase_of_the_data_carry_through(case):
    parameters = LlrParameters(iterations=5, block=4)
    plain = llr(case.gram, case.adjoint, case.initial, parameters)
    factor = 300 * torch.exp(torch.tensor(1.1j))
    scaled = llr(case.gram, factor * case.adjoint, factor * case.initial, parameters)
    assert float((scaled / factor - plain).norm()) < 1e-3 * float(plain.norm())


def test_watching(case):
    watched = []
    found = llr(case.gram, case.adjoint, case.initial, LlrParameters(iterations=3), watched.append)
    assert [i.number for i in watched] == [1, 2, 3]
    assert torch.equal(watched[-1].tsmi, found)


@pytest.mark.parametrize(
    ("name", "value"), [("block", 0), ("strength", -1.0), ("threshold", 0.0), ("iterations", 0)]
)
def test_parameters_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        LlrParameters(**{name: value})


def test_a_start_of_zero_is_refused(case):
    with pytest.raises(ValueError, match="initial_tsmi is zero"):
        llr(case.gram, case.adjoint, torch.zeros_like(case.initial), LlrParameters())
