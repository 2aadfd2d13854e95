"""Total nuclear variation against numpy's SVD, isotropic TV and an independent solver."""

import numpy as np
import pytest
import torch
from recon.cases import dense, difference_matrix, make_case, primal_dual, unit_of

from mri2qmap.operators import FiniteDifferences
from mri2qmap.recon import total_variation as total_variation_module
from mri2qmap.recon.admm import solve_regularised
from mri2qmap.recon.nuclear_variation import (
    NuclearVariation,
    limit_singular_values,
    nuclear_norms,
)
from mri2qmap.recon.regulariser import SplitParameters
from mri2qmap.recon.total_variation import TotalVariation, total_variation


def random(*shape, seed=0, dtype=torch.complex64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_singular_values(values, n_coefficients, seed=0):
    """Differences (3, s, 1, 1, n) of these singular values (n, 3), in random directions."""
    left = torch.linalg.qr(random(len(values), 3, 3, seed=seed, dtype=torch.complex128))[0]
    right = random(len(values), n_coefficients, 3, seed=seed + 1, dtype=torch.complex128)
    right = torch.linalg.qr(right)[0]
    matrices = (left * torch.tensor(values)[:, None, :].double()) @ right.mH
    return matrices.permute(1, 2, 0)[:, :, None, None].to(torch.complex64)


def limited(differences, limits):
    """Limited singular values (3, s, z, y, x) by numpy's decomposition of each matrix."""
    shape = differences.shape
    matrices = differences.flatten(2).permute(2, 0, 1).numpy()
    u, values, v = np.linalg.svd(
        matrices.astype(np.promote_types(matrices.dtype, float)), full_matrices=False
    )
    limits = np.broadcast_to(np.asarray(limits), shape[2:]).reshape(-1, 1)
    found = (u * np.minimum(values, limits)[:, None, :]) @ v
    return torch.from_numpy(found).permute(1, 2, 0).reshape(shape).to(differences.dtype)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e5])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32])
@pytest.mark.parametrize("n_coefficients", [1, 2, 3, 5])
def test_limited_singular_values(n_coefficients, dtype, scale):
    differences = scale * random(3, n_coefficients, 4, 5, 6, dtype=dtype)
    limits = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1)) * 3 * scale
    for limit in (0.0, 0.7 * scale, 1e3 * scale, limits):
        found = limit_singular_values(differences, limit)
        assert found.dtype == dtype
        expected = limited(differences, limit)
        torch.testing.assert_close(found, expected, atol=2e-6 * scale, rtol=0)


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 0.0, 0.0),
        (2.0, 0.0, 0.0),
        (2.0, 2.0, 0.0),
        (2.0, 2.0, 2.0),
        (2.0, 2.0, 1.0),
        (2.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        (1.0 + 1e-7, 1.0, 1.0 - 1e-7),
        (3.0, 1.0 + 1e-6, 1.0),
        (100.0, 1.0, 1e-2),
        (1e-20, 1e-21, 0.0),
    ],
)
@pytest.mark.parametrize("limit", [0.0, 1e-3, 1.0, 1.0 + 1e-7, 2.0, 1e6])
def test_equal_and_vanishing_singular_values(values, limit):
    differences = with_singular_values([values] * 20, 5)
    found = limit_singular_values(differences, limit)
    torch.testing.assert_close(
        found, limited(differences, limit), atol=1e-6 * max(values[0], 1), rtol=0
    )
    largest = np.linalg.svd(found[:, :, 0, 0].permute(2, 0, 1).numpy(), compute_uv=False).max()
    assert largest <= limit * (1 + 1e-5) + 1e-6 * max(values[0], 1)
    norms = nuclear_norms(differences)
    torch.testing.assert_close(norms, torch.full_like(norms, sum(values)), rtol=1e-4, atol=1e-12)


def test_blocks_of_voxels_make_no_difference(monkeypatch):
    differences = random(3, 5, 4, 5, 6)
    limits = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1))
    whole, norms = limit_singular_values(differences, limits), nuclear_norms(differences)
    monkeypatch.setattr("mri2qmap.machine.devices._VOXELS_ON_CPU", 7)
    torch.testing.assert_close(limit_singular_values(differences, limits), whole)
    torch.testing.assert_close(nuclear_norms(differences), norms)


def test_strides_make_no_difference():
    differences = random(3, 5, 4, 5, 6)
    swapped = differences.transpose(2, 4).contiguous().transpose(2, 4)
    expected = limit_singular_values(differences, 1.0)
    torch.testing.assert_close(limit_singular_values(swapped, torch.tensor(1.0)), expected)
    torch.testing.assert_close(nuclear_norms(swapped), nuclear_norms(differences))


def test_what_is_removed_has_soft_thresholded_singular_values():
    """Moreau: argument minus projection is the proximal point of the nuclear norm."""
    differences = random(3, 5, 3, 3, 3)
    removed = (differences - limit_singular_values(differences, 1.5)).flatten(2).permute(2, 0, 1)
    before = np.linalg.svd(differences.flatten(2).permute(2, 0, 1).numpy(), compute_uv=False)
    found = np.linalg.svd(removed.numpy(), compute_uv=False)
    np.testing.assert_allclose(found, np.maximum(before - 1.5, 0), atol=1e-5)


def test_one_coefficient_has_the_isotropic_total_variation():
    volume = random(1, 6, 7, 8)
    nuclear, isotropic = NuclearVariation(2.0, 0.5), TotalVariation(2.0, 0.5)
    for _ in range(2):
        found, expected = nuclear.step(volume), isotropic.step(volume)
        torch.testing.assert_close(found.pull, expected.pull, atol=1e-5, rtol=1e-5)
        assert found.primal == pytest.approx(expected.primal, rel=1e-5)
    assert nuclear.evaluate(volume) == pytest.approx(isotropic.evaluate(volume), rel=1e-3)


def test_coefficients_that_change_in_proportion_cost_one_gradient():
    """Rank one: the length of all together. In another direction each: the sum of both lengths."""
    edge = torch.zeros(6, 6, 6)
    edge[3:] = 1.0
    across = edge.transpose(0, 2)
    weights = torch.tensor([3.0, 4.0])[:, None, None, None]
    together = NuclearVariation(1.0, 1.0).evaluate(weights * edge)[1]
    assert together == pytest.approx(5 * total_variation(edge), rel=1e-3)
    apart = NuclearVariation(1.0, 1.0).evaluate(weights * torch.stack([edge, across]))[1]
    assert apart == pytest.approx(7 * total_variation(edge), rel=1e-3)


@pytest.mark.parametrize("together", [1, 2 * 16 * 3, 2**23])
def test_voxels_have_their_weights_in_any_slabs(together, monkeypatch):
    monkeypatch.setattr(total_variation_module, "_AT_ONCE", together)
    volumes = random(2, 4, 4, 4)
    weights = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(2))
    regulariser = NuclearVariation(3.0, 0.5, weights)
    differences = FiniteDifferences(volumes.shape) @ volumes
    norms = nuclear_norms(differences)
    energy, value = regulariser.evaluate(volumes)
    assert energy == pytest.approx(1.5 * float(differences.abs().square().sum()), rel=1e-5)
    assert value == pytest.approx(1.5 * float((weights * norms).sum()), rel=1e-5)
    energy, value = TotalVariation(3.0, 0.5, weights).evaluate(volumes)
    lengths = differences.abs().square().sum(0).sqrt()
    assert energy == pytest.approx(1.5 * float(differences.abs().square().sum()), rel=1e-5)
    assert value == pytest.approx(1.5 * float((weights * lengths).sum()), rel=1e-5)


def test_agrees_with_an_independent_primal_dual_solver():
    case = make_case((6, 6, 6), seed=1)
    strength = 0.8
    weight = strength * unit_of(case)
    matrix, right = dense(case.gram), case.adjoint.numpy().reshape(-1).astype(complex)
    shape = case.gram.domain_shape
    differences = difference_matrix(*shape)

    def project(dual):
        jacobians = dual.reshape(3, shape[0], -1).transpose(2, 0, 1)
        u, values, v = np.linalg.svd(jacobians, full_matrices=False)
        return ((u * np.minimum(values, weight)[:, None, :]) @ v).transpose(1, 2, 0)

    reference, dual = primal_dual(matrix, differences, right, project, 500)
    residual = matrix @ reference - right + differences.T @ dual
    assert np.linalg.norm(residual) < 1e-4 * np.linalg.norm(right)

    parameters = SplitParameters(
        strength, iterations=120, cg_iterations=5, cg_reduction=0.0, cg_tolerance=1e-7
    )
    limit = 0.1
    regulariser = NuclearVariation(weight / limit, limit)
    found = solve_regularised(case.gram, case.adjoint, case.initial, regulariser, parameters)
    found = found.numpy().reshape(-1)
    assert np.linalg.norm(found - reference) < 1e-3 * np.linalg.norm(reference)
    # It is not the minimiser with the total variation of each coefficient.
    other = TotalVariation(weight / limit, limit)
    found = solve_regularised(case.gram, case.adjoint, case.initial, other, parameters)
    found = found.numpy().reshape(-1)
    assert np.linalg.norm(found - reference) > 1e-2 * np.linalg.norm(reference)


@pytest.mark.parametrize("volumes", [random(4, 4, 4), random(2, 2, 4, 4, 4)])
def test_other_axes_are_refused(volumes):
    with pytest.raises(ValueError, match="axis of one coefficient"):
        NuclearVariation(1.0, 0.1).step(volumes)
