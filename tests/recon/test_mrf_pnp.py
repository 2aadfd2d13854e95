"""MRF-PnP against closed forms: denoisers that are proximal operators of known priors."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from recon.cases import dense, make_case

from mri2qmap.operators import FiniteDifferences
from mri2qmap.recon.conjugate_gradient import conjugate_gradient
from mri2qmap.recon.mrf_pnp import DenoiserRegulariser, mrf_pnp
from mri2qmap.recon.regulariser import SplitParameters

LONG = SplitParameters(
    strength=0.3, iterations=80, cg_iterations=6, cg_reduction=0.0, cg_tolerance=1e-7
)


@pytest.fixture(scope="module")
def case():
    return make_case((6, 6, 6), seed=1)


def difference(value, reference):
    return float((value - reference).norm() / reference.norm())


def test_a_denoiser_that_shrinks_is_a_quadratic_prior(case):
    """Z = v / (1 + mu / rho) is the proximal operator of mu/2 |x|^2."""
    rho = LONG.strength * case.gram.mean_diagonal
    mu = 0.5 * rho
    found = mrf_pnp(case.gram, case.adjoint, case.initial, lambda v: v / (1 + mu / rho), LONG)
    matrix = dense(case.gram)
    right = case.adjoint.numpy().reshape(-1).astype(complex)
    expected = np.linalg.solve(matrix + mu * np.eye(len(matrix)), right)
    assert difference(found, torch.from_numpy(expected.astype(np.complex64)).view_as(found)) < 2e-3


def test_a_denoiser_that_smooths_is_a_smoothness_prior(case):
    """Z = (1 + mu / rho D^H D)^-1 v is the proximal operator of mu/2 |D x|^2."""
    rho = LONG.strength * case.gram.mean_diagonal
    mu = 0.4 * rho

    def smooth(volumes):
        def operator(x):
            return x + mu / rho * FiniteDifferences(x.shape).gram(x)

        return conjugate_gradient(operator, volumes, max_iterations=40, tolerance=1e-8)[0]

    found = mrf_pnp(case.gram, case.adjoint, case.initial, smooth, LONG)

    def whole(x):
        return case.gram(x) + mu * FiniteDifferences(x.shape).gram(x)

    expected, _ = conjugate_gradient(whole, case.adjoint, max_iterations=400, tolerance=1e-8)
    assert difference(found, expected) < 3e-3


def test_the_truth_in_the_place_of_the_denoiser_takes_it_to_the_truth(case):
    parameters = dataclasses.replace(LONG, strength=1.0, iterations=30)
    found = mrf_pnp(case.gram, case.adjoint, case.initial, lambda _: case.truth.clone(), parameters)
    # The multiplier holds the data against the truth: what is left is their compromise.
    assert difference(found, case.truth) < 0.7 * difference(case.initial, case.truth)


def test_one_step_by_hand():
    prior = DenoiserRegulariser(3.0, lambda v: v.clamp(min=0.0))
    volumes = torch.tensor([1.0, -2.0])[:, None, None, None]
    assert prior.step(volumes).pull.flatten().tolist() == [3.0, 6.0]  # Z = 1, 0; P = 0, -2
    assert prior.step(volumes).pull.flatten().tolist() == [3.0, 12.0]  # Z = 1, 0; P = 0, -4
    assert prior.quadratic(volumes.shape)(volumes).flatten().tolist() == [3.0, -6.0]
    assert prior.spectrum((1, 1, 1)) == 3.0


def test_penalty_of_zero_is_refused(case):
    with pytest.raises(ValueError, match="must be positive"):
        mrf_pnp(
            case.gram,
            case.adjoint,
            case.initial,
            lambda v: v,
            dataclasses.replace(LONG, strength=0.0),
        )


def test_scan_and_denoiser_may_be_of_any_scale(case):
    assert math.isfinite(case.data_energy)
    found = mrf_pnp(case.gram, case.adjoint, case.initial, lambda v: 0.8 * v, LONG)
    larger = mrf_pnp(case.gram, 100 * case.adjoint, 100 * case.initial, lambda v: 0.8 * v, LONG)
    assert difference(larger / 100, found) < 1e-4
