"""The units of strengths: brightness and noise of a TSMI."""

import pytest
import torch
from recon.cases import make_case, noise, unit_of

from mri2qmap.recon.noise_level import intensity, noise_deviation, relative_noise, strength_unit


def noisy_block(level, coefficients=5, shape=(20, 22, 24), seed=0):
    """A block of magnitude 2 in a third of the volume, with noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    tsmi = level * torch.randn(coefficients, *shape, dtype=torch.complex64, generator=generator)
    tsmi[0, 3:17, 4:18, 5:21] += 2j
    return tsmi


def test_intensity_is_the_magnitude_of_what_is_bright():
    tsmi = torch.zeros(2, 4, 4, 4, dtype=torch.complex64)
    tsmi[:, :2] = torch.tensor([3.0, 4j])[:, None, None, None]
    assert intensity(tsmi) == pytest.approx(5)
    tsmi[:, 2:] = 1e-3
    assert intensity(tsmi) == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize("coefficients", [1, 2, 5, 8])
@pytest.mark.parametrize("level", [0.002, 0.1])
def test_white_noise_is_found_under_an_object(level, coefficients):
    tsmi = noisy_block(level, coefficients)
    assert relative_noise(tsmi) * intensity(tsmi) == pytest.approx(level, rel=0.1)


def test_borders_hardly_count():
    with_object = noisy_block(0.01)
    alone = with_object.clone()
    alone[0, 3:17, 4:18, 5:21] -= 2j
    found, expected = (relative_noise(t) * intensity(t) for t in (with_object, alone))
    assert found == pytest.approx(expected, rel=0.1)


def test_voxels_outside_of_the_coil_maps_do_not_count():
    whole = noisy_block(0.05)
    masked = torch.zeros_like(whole)
    masked[:, 4:12, 6:16, 6:16] = whole[:, 4:12, 6:16, 6:16]
    assert relative_noise(masked) * intensity(masked) == pytest.approx(0.05, rel=0.1)


def test_scale_and_phase_do_not_matter():
    tsmi = noisy_block(0.05)
    assert relative_noise(300j * tsmi) == pytest.approx(relative_noise(tsmi))


@pytest.mark.parametrize("shape", [(12, 14, 12), (6, 6, 6)])
def test_it_is_that_of_another_formula(shape):
    initial = make_case(shape).initial
    assert relative_noise(initial) == pytest.approx(noise(initial) / intensity(initial), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 7, 9), (8, 8, 8)])
def test_an_even_image_has_the_noise_of_arithmetic(shape):
    assert relative_noise(torch.ones(2, *shape, dtype=torch.complex64)) == 1e-4


def test_an_odd_edge_is_left_out():
    tsmi = noisy_block(0.05, shape=(20, 22, 24))
    longer = torch.cat([tsmi, 100 * tsmi[..., -1:]], -1)
    found = relative_noise(longer) * intensity(longer)
    assert found == pytest.approx(relative_noise(tsmi) * intensity(tsmi), rel=1e-5)


@pytest.mark.parametrize("unit", [intensity, relative_noise])
def test_nothing_has_no_unit(unit):
    with pytest.raises(ValueError, match="zero everywhere"):
        unit(torch.zeros(2, 4, 4, 4, dtype=torch.complex64))


def test_unit_of_strengths():
    """Proportional to the noise of A^H Y, and to the cube root of that of X0 over its intensity."""
    case = make_case((12, 14, 12))
    expected = unit_of(case)
    assert strength_unit(case.adjoint, case.initial) == pytest.approx(expected, rel=1e-5)
    scaled = strength_unit(300j * case.adjoint, 300j * case.initial)
    assert scaled == pytest.approx(300 * expected, rel=1e-5)
    sampled_twice = strength_unit(2 * case.adjoint, case.initial)
    assert sampled_twice == pytest.approx(2 * expected, rel=1e-5)
    ratio = strength_unit(case.adjoint, noisy_block(0.08)) / strength_unit(
        case.adjoint, noisy_block(0.01)
    )
    assert ratio == pytest.approx(2, rel=0.05)


def test_no_unit_without_a_signal():
    nothing = torch.zeros(2, 4, 4, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match="zero everywhere"):
        strength_unit(nothing, nothing)


def test_no_noise_in_a_constant_image():
    assert noise_deviation(torch.ones(2, 8, 8, 8, dtype=torch.complex64)) == 0
