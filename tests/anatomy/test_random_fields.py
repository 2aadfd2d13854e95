"""Random fields have the spectrum that is asked for; balls have their volume."""

import numpy as np
import pytest

from mri2qmap.anatomy.random_fields import ball_coverage, power_law_field, random_path

SHAPE = (48, 40, 36)
VOXEL = (1.0, 1.2, 1.5)


def test_the_field_has_mean_0_and_variance_1():
    fields = [
        power_law_field(SHAPE, VOXEL, (2, 12), 2.0, np.random.default_rng(seed))
        for seed in range(6)
    ]
    assert max(abs(field.mean()) for field in fields) < 1e-5
    assert np.mean([field.var() for field in fields]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("exponent", [0.0, 2.0, 4.0])
def test_the_power_falls_with_the_exponent(exponent):
    n = 48
    power = np.zeros((n, n, n))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        field = power_law_field((n,) * 3, (2.0,) * 3, (4, 60), exponent, rng)
        power += np.abs(np.fft.fftn(field)) ** 2
    axis = np.fft.fftfreq(n, 2.0)
    k = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    shells = [(1 / 50, 1 / 25), (1 / 25, 1 / 12.5), (1 / 12.5, 1 / 6.25)]
    means = [np.log2(power[(k >= low) & (k < high)].mean()) for low, high in shells]
    assert np.diff(means) == pytest.approx([-exponent] * 2, abs=0.35)
    assert power[k > 1 / 3.9].max() < 1e-6 * power.max()  # shorter than the shortest wavelength


def test_longer_wavelengths_have_the_power_of_the_longest():
    power = np.zeros((64, 64, 64))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        power += np.abs(np.fft.fftn(power_law_field((64,) * 3, (1.0,) * 3, (2, 8), 4.0, rng))) ** 2
    axis = np.fft.fftfreq(64)
    k = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    low = power[(k > 0) & (k < 1 / 16)].mean()
    assert low == pytest.approx(power[(k > 1 / 16) & (k < 1 / 9)].mean(), rel=0.15)


def test_a_band_without_modes_gives_zeros():
    field = power_law_field((8, 8, 8), (1.0,) * 3, (1000, 2000), 2.0, np.random.default_rng(0))
    assert not field.any()


@pytest.mark.parametrize("radius", [1.0, 2.5, 4.0])
def test_a_ball_has_its_volume(radius):
    box, coverage = ball_coverage((20, 20, 20), VOXEL, np.array([9.3, 9.9, 10.2]), radius, 9)
    assert coverage.shape == tuple(edge.stop - edge.start for edge in box)
    assert coverage.sum() * np.prod(VOXEL) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    middle = np.array([9, 10, 10]) - [edge.start for edge in box]
    assert coverage[tuple(middle)] > 0.6


def test_a_ball_is_cut_at_the_border_and_may_lie_outside():
    whole = np.zeros((10, 10, 10), np.float32)
    box, coverage = ball_coverage(whole.shape, (1, 1, 1), np.array([0.0, 5.0, 5.0]), 3.0)
    whole[box] = coverage
    assert whole[0, 5, 5] == 1
    assert whole.sum() == pytest.approx(4 / 3 * np.pi * 27 / 2 + np.pi * 9 / 2, rel=0.05)
    _, outside = ball_coverage(whole.shape, (1, 1, 1), np.array([-20.0, 5.0, 5.0]), 3.0)
    assert outside.size == 0


def test_a_path_has_its_length_and_is_smooth():
    path = random_path(np.array([1.0, 2.0, 3.0]), 20.0, 0.5, np.random.default_rng(1))
    steps = np.diff(path, axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 0.5)
    assert len(path) == 41
    assert np.median((steps[1:] * steps[:-1]).sum(1)) > 0.8 * 0.25
