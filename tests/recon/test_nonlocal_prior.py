"""Reconstruction with a guided filter: known answers, units, resuming."""

import copy
import dataclasses
import math

import pytest
import torch
from recon.cases import identity_gram, make_case

from mri2qmap.denoiser import nonlocal_wiener
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener
from mri2qmap.machine import put_aside
from mri2qmap.recon.nonlocal_prior import NonlocalVariables, solve_with_guided_filter
from mri2qmap.recon.regulariser import SplitParameters

EXACT = SplitParameters(cg_iterations=200, cg_reduction=0.0, cg_tolerance=1e-6)


@pytest.fixture(scope="module")
def case():
    return make_case((12, 10, 8))


def solve(case, guide, filter_of, iterations, **more):
    start = NonlocalVariables.at_start(guide.clone())
    return solve_with_guided_filter(
        case.gram, case.adjoint, start, filter_of, iterations, EXACT, **more
    )


def noise_like(tsmi, seed=0):
    """Standard deviation 1 in real and in imaginary parts."""
    generator = torch.Generator().manual_seed(seed)
    return math.sqrt(2) * torch.randn(tsmi.shape, dtype=torch.complex64, generator=generator)


def test_the_filter_is_told_the_noise_of_its_input():
    """Full sampling with d samples per voxel: the noise of A^H Y has variance s^2 d."""
    d, s = 16.0, 0.3
    gram = identity_gram(2, (16, 16, 16), d)
    guide = noise_like(torch.empty(2, 16, 16, 16), 1)
    adjoint = d * guide + s * math.sqrt(d / 2) * noise_like(guide, 2)
    told = []

    def filter_of(given, sigma):
        assert torch.equal(given, guide)
        told.append(sigma)
        return lambda tsmi: tsmi

    start = NonlocalVariables.at_start(guide)
    solve_with_guided_filter(gram, adjoint, start, filter_of, 2, EXACT)
    assert told == [pytest.approx(s / math.sqrt(2 * 0.3 * d), rel=0.02)]


def test_the_noise_is_not_diluted_by_voxels_outside_the_coil_maps(case):
    """Half of the volume is zero, in the data as in the guide."""
    gram = identity_gram(1, (16, 8, 8), 4.0)
    guide = torch.zeros(1, 16, 8, 8, dtype=torch.complex64)
    adjoint = guide.clone()
    adjoint[:, :8] = noise_like(adjoint[:, :8])
    told = []

    def filter_of(_, sigma):
        told.append(sigma)
        return lambda tsmi: tsmi

    for kept in (adjoint, adjoint[:, :8]):
        whole = identity_gram(1, tuple(kept.shape[1:]), 4.0)
        start = NonlocalVariables.at_start(torch.zeros_like(kept))
        solve_with_guided_filter(whole, kept, start, filter_of, 1, EXACT)
    assert told[0] == pytest.approx(told[1])
    assert gram.mean_diagonal == pytest.approx(4.0)


def test_iterations_by_their_definition(case):
    """Against dense algebra, with a linear filter of a known matrix."""
    identity = torch.eye(case.adjoint.numel(), dtype=torch.complex128)
    rows = [case.gram(row.view_as(case.adjoint)) for row in identity.to(torch.complex64)]
    a = torch.stack([row.flatten() for row in rows]).T.to(torch.complex128)
    rho = 0.3 * case.gram.mean_diagonal
    b = case.adjoint.flatten().to(torch.complex128)
    guide = 0.8 * case.initial
    z, u = guide.flatten().to(torch.complex128), torch.zeros_like(b)
    for _ in range(4):
        x = torch.linalg.solve(a + rho * identity, b + rho * (z - u))
        z = 0.7 * (x + u) + 0.1 * guide.flatten()
        u = u + x - z
    found = solve(case, guide, lambda given, _: lambda tsmi: 0.7 * tsmi + 0.1 * given, 4)
    assert float((found.flatten() - z).norm()) < 1e-4 * float(z.norm())


def test_it_removes_the_bias_of_the_guide(monkeypatch):
    monkeypatch.setattr(nonlocal_wiener, "_REACH", 4)
    case = make_case((12, 10, 8), noise=0.05)
    found = solve(case, 0.97 * case.truth, TsmiWiener, 2)
    truth = case.truth.flatten()
    share = float(torch.vdot(truth, found.flatten()).real / truth.norm() ** 2)
    assert 0.98 < share < 1.01
    assert float((found - case.truth).norm()) < 0.35 * float((case.initial - case.truth).norm())


def test_to_spare_memory_tensors_are_put_aside(case, monkeypatch):
    """Those of the filter and of the iterations, during conjugate gradients."""
    monkeypatch.setattr(nonlocal_wiener, "_REACH", 4)
    expected = solve(case, case.initial, TsmiWiener, 2)
    monkeypatch.setattr(put_aside, "_LARGE", 1)
    sparing = dataclasses.replace(case, gram=copy.copy(case.gram))
    sparing.gram.spare_memory = True
    seen, filters = [], []

    def filter_of(guide, sigma):
        filters.append(TsmiWiener(guide, sigma))
        return filters[0]

    gram_forward = type(case.gram).forward

    def forward(self, x):
        if filters:
            seen.append(filters[0]._guide is None and filters[0]._groups is None)
        return gram_forward(self, x)

    monkeypatch.setattr(type(case.gram), "forward", forward)
    found = solve(sparing, case.initial, filter_of, 2)
    assert seen
    assert all(seen)
    assert torch.equal(found, expected)


def test_data_of_the_guide_itself_leave_it(case):
    guide = case.truth
    start = NonlocalVariables.at_start(guide)
    found = solve_with_guided_filter(case.gram, case.gram(guide), start, never, 3, EXACT)
    assert found is guide


def never(guide, sigma):
    pytest.fail("there is no noise to filter")


def test_data_that_are_not_finite_are_an_error(case):
    broken = dataclasses.replace(case, adjoint=case.adjoint * math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        solve(broken, case.initial, TsmiWiener, 2)


def test_each_iteration_is_announced(case):
    numbers = []
    solve(case, case.initial, lambda *_: lambda tsmi: tsmi, 3, on_iteration=numbers.append)
    assert numbers == [1, 2, 3]


def test_a_state_of_the_iterations_before_is_none_of_these():
    assert NonlocalVariables.from_state({"iterations": torch.tensor(3)}) is None
