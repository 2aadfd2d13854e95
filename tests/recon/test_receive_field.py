"""Estimate of the receive field against fields that are known."""

import numpy as np
import pytest

from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.recon.receive_field import receive_field
from mri2qmap.simulation.coils import coil_sensitivities
from mri2qmap.simulation.coils import receive_field as true_field

MATRIX = (40, 48, 44)
VOXEL = (0.005, 0.004, 0.0045)
GEOMETRY = Geometry(MATRIX, VOXEL)
WHITE, GREY, FLUID = (0.8, 0.70), (1.4, 0.82), (4.0, 1.0)
"""T1 [s] and proton density of tissues."""


def head(seed=0, noise=0.01):
    """Folded tissues in an ellipsoid with a rim of fluid: T1 [s], density, and white matter."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in MATRIX), indexing="ij")
    radius = np.sqrt((z / 0.85) ** 2 + (y / 0.9) ** 2 + (x / 0.8) ** 2)
    folds = np.cos(9 * x + 2 * z) * np.cos(8 * y) + np.cos(7 * z)
    white, fluid = (folds < 0.3) & (radius < 0.75), radius > 0.9
    t1, density = (
        np.where(white, w, np.where(fluid, f, g))
        for w, g, f in zip(WHITE, GREY, FLUID, strict=True)
    )
    inside = radius < 1
    t1 = np.where(inside, t1 * np.exp(noise * rng.standard_normal(MATRIX)), 0.5)
    density = np.where(inside, density * np.exp(noise * rng.standard_normal(MATRIX)), 0)
    return t1.astype(np.float32), density.astype(np.float32), white & inside


def coils(number):
    return true_field(coil_sensitivities(GEOMETRY, number))


def variation(values):
    return values.std() / values.mean()


@pytest.mark.parametrize("number", [8, 32])
def test_the_field_of_an_array_of_coils_is_found(number):
    t1, density, white = head()
    field = coils(number)
    found = receive_field(density * field, t1, VOXEL)
    inside = density > 0
    assert variation((density * field)[white]) > 0.08
    assert variation((density * field / found)[white]) < 0.015  # the noise is 0.01
    assert np.std(np.log(found / field)[inside]) < 0.02
    assert abs(np.corrcoef((density * field / found)[white], field[white])[0, 1]) < 0.3


def test_tissues_keep_their_proportion():
    t1, density, white = head()
    field = coils(8)
    corrected = density * field / receive_field(density * field, t1, VOXEL)
    grey = (t1 > 1.2) & (t1 < 1.6) & (density > 0)
    assert corrected[white].mean() / corrected[grey].mean() == pytest.approx(0.70 / 0.82, rel=0.01)


def test_a_uniform_field_stays():
    t1, density, _ = head()
    found = receive_field(density, t1, VOXEL)
    assert np.abs(np.log(found[density > 0])).max() < 0.02


def test_a_lesion_keeps_its_density():
    t1, density, _ = head(noise=0.002)
    lesion = np.zeros(MATRIX, bool)
    lesion[18:23, 30:35, 20:25] = True
    t1[lesion], density[lesion] = WHITE[0], 0.95  # its T1 says nothing of its water
    field = coils(8)
    corrected = density * field / receive_field(density * field, t1, VOXEL)
    around = (t1 < 1.1) & (density > 0) & ~lesion
    assert corrected[lesion].mean() / corrected[around].mean() == pytest.approx(
        0.95 / 0.70, rel=0.02
    )


def test_scale_and_what_is_not_finite_do_not_matter():
    t1, density, _ = head()
    measured = density * coils(8)
    found = receive_field(measured, t1, VOXEL)
    np.testing.assert_allclose(receive_field(1e4 * measured, t1, VOXEL), found, rtol=1e-3)
    measured[20, 20, 20:22] = np.nan, np.inf
    t1[10, 24, 22] = 0
    valid = np.isfinite(measured) & (t1 > 0)
    again = receive_field(measured, t1, VOXEL)
    assert np.isfinite(again).all()
    np.testing.assert_allclose(again[valid], found[valid], rtol=0.01)


def test_its_mean_inside_is_one_and_noise_outside_is_not_amplified():
    t1, density, _ = head()
    rng = np.random.default_rng(1)
    air = density == 0
    measured = np.where(air, 0.005 * rng.random(MATRIX), density * coils(8)).astype(np.float32)
    found = receive_field(measured, t1, VOXEL)
    assert found.dtype == np.float32
    assert np.log(found[~air]).mean() == pytest.approx(0, abs=1e-3)
    assert found[~air].min() < 0.9
    assert found[air].min() > 0.999
    assert found[air].max() <= found[~air].max() * 1.001


@pytest.mark.parametrize("matrix", [(4, 4, 4), (1, 6, 6)])
def test_no_estimate_from_too_few_voxels(matrix):
    assert receive_field(np.ones(matrix), np.ones(matrix), VOXEL) is None


def test_no_estimate_without_an_object():
    assert receive_field(np.zeros(MATRIX), np.ones(MATRIX), VOXEL) is None
    assert receive_field(np.ones(MATRIX), np.zeros(MATRIX), VOXEL) is None


def test_one_value_of_t1_is_enough():
    _, density, _ = head()
    field = coils(8)
    inside = density > 0
    found = receive_field(np.where(inside, field, 0), np.ones(MATRIX), VOXEL)
    assert np.std(np.log(found / field)[inside]) < 0.02
