import numpy as np
import pytest
from scipy import ndimage

from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.simulation import coils as module
from mri2qmap.simulation.coils import coil_sensitivities, noise_covariance, receive_field

GEOMETRY = Geometry((20, 24, 16), (0.01, 0.01, 0.01))


def test_one_coil_is_uniform():
    np.testing.assert_array_equal(coil_sensitivities(GEOMETRY, 1), 1)


def test_field_on_the_axis_of_a_loop():
    # B ~ a^2 / (a^2 + s^2)^(3/2) on the axis, at a distance s from the plane of the loop.
    centre, outward = np.array([0.2, 0.0, 0.0]), np.array([1.0, 0.0, 0.0])
    distances = np.array([0.05, 0.1, 0.2, 0.3])
    points = centre - distances[:, None] * outward
    field = module._loop_field(points, centre, outward)
    radius = 0.4 * 0.2
    expected = radius**2 / (radius**2 + distances**2) ** 1.5
    np.testing.assert_allclose(field.real / field.real[0], expected / expected[0], rtol=1e-9)
    np.testing.assert_allclose(field.imag, 0, atol=1e-9 * abs(field[0]))


def test_coils_are_most_sensitive_nearby():
    maps = np.abs(coil_sensitivities(GEOMETRY, 6))
    for coil, angle in enumerate(2 * np.pi * np.arange(6) / 6):
        near = (10, round(12 + 9 * np.sin(angle)), round(8 + 7 * np.cos(angle)))
        far = (10, round(12 - 9 * np.sin(angle)), round(8 - 7 * np.cos(angle)))
        assert maps[(coil, *near)] > 2 * maps[(coil, *far)]
        assert maps[(coil, *near)] == maps[(slice(None), *near)].max()


def test_sensitivities_are_smooth_and_scaled():
    maps = coil_sensitivities(GEOMETRY, 8)
    assert maps.shape == (8, 20, 24, 16)
    assert np.linalg.norm(maps[:, 10, 12, 8]) == pytest.approx(1, rel=1e-3)
    for axis in (1, 2, 3):
        assert np.abs(np.diff(maps, axis=axis)).max() < 0.25 * np.abs(maps).max()


def test_coils_are_fixed_to_the_patient_when_the_grid_is_rotated():
    straight = coil_sensitivities(Geometry((16, 16, 16), (0.01,) * 3), 4)
    turned = coil_sensitivities(
        Geometry(
            (16, 16, 16),
            (0.01,) * 3,
            read_dir=(0, 1, 0),
            phase_dir=(0, 0, -1),
            slice_dir=(-1, 0, 0),
        ),
        4,
    )
    # Voxel (z, y, x) of the rotated grid is at LPS x = -z, y = x, z = -y.
    n = np.arange(-7, 8)
    z, y, x = np.meshgrid(n, n, n, indexing="ij")
    expected = straight[:, 8 - y, 8 + x, 8 - z]
    np.testing.assert_allclose(turned[:, 8 + z, 8 + y, 8 + x], expected, atol=1e-5)


@pytest.mark.parametrize("coils", [2, 8, 32])
def test_covariance_is_hermitian_positive_and_correlated(coils):
    covariance = noise_covariance(coils, np.random.default_rng(1))
    np.testing.assert_allclose(covariance, covariance.conj().T)
    values = np.linalg.eigvalsh(covariance)
    assert values.min() > 0.01
    assert np.trace(covariance).real == pytest.approx(coils)
    assert np.abs(covariance[0, 1]) > 0.2


def test_receive_field_is_that_of_the_whitened_array():
    rng = np.random.default_rng(0)
    maps = (rng.standard_normal((3, 2, 2, 2)) + 1j * rng.standard_normal((3, 2, 2, 2))).astype(
        np.complex64
    )
    covariance = noise_covariance(3, rng)
    s = maps[:, 1, 0, 1]
    expected = np.sqrt((s.conj() @ np.linalg.inv(covariance) @ s).real)
    assert receive_field(maps, covariance)[1, 0, 1] == pytest.approx(expected, rel=1e-5)
    assert receive_field(maps)[1, 0, 1] == pytest.approx(np.linalg.norm(s), rel=1e-6)


def test_zero_coils_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        coil_sensitivities(GEOMETRY, 0)


def test_splines_along_one_axis_after_another_are_those_of_three_dimensions():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((module.COARSE_POINTS,) * 3)
    positions = [np.linspace(first, 24 - first, n) for first, n in ((0, 5), (0.3, 6), (2, 7))]
    where = np.meshgrid(*positions, indexing="ij")
    expected = ndimage.map_coordinates(values, where, order=3, mode="nearest")
    along = [module._spline_weights(at) for at in positions]
    found = np.einsum("zi,yj,xk,ijk->zyx", *along, values)
    np.testing.assert_allclose(found, expected, atol=1e-5)
