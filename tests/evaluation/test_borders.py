import numpy as np
import pytest
from scipy.ndimage import convolve1d

from mri2qmap.evaluation.borders import border_sharpness, border_zone

SHAPE = (16, 18, 20)
VOXEL = (1.0, 1.0, 1.0)
EDGE = np.s_[:, :, 10:]
z, y, x = np.indices(SHAPE)
WHITE, GREY = x < 10, x >= 10
ZONE = border_zone(WHITE, GREY, np.ones(SHAPE, bool))
TRUE = np.where(WHITE, 0.8, 1.3)


def blurred(volume, kernel):
    """Blur of the logarithm along x."""
    return np.exp(convolve1d(np.log(volume), kernel, axis=2, mode="nearest"))


def test_zone_is_near_both_tissues_and_away_from_others():
    usable = np.ones(SHAPE, bool)
    usable[8] = False
    zone = border_zone(WHITE, GREY, usable)
    expected = np.zeros(SHAPE, bool)
    expected[1:-1, 1:-1, 8:12] = True  # the faces of the volume have no neighbour
    expected[7:10] = False
    np.testing.assert_array_equal(zone, expected)
    assert not border_zone(WHITE, np.zeros(SHAPE, bool), usable).any()


def test_truth_is_as_sharp_as_itself_at_any_scale():
    assert border_sharpness(TRUE, TRUE, ZONE, VOXEL) == pytest.approx(1)
    assert border_sharpness(1.4 * TRUE, TRUE, ZONE, VOXEL) == pytest.approx(1)


def test_blur_by_hand():
    """Central differences of a step are 1/2, 1/2; those of the blurred step 1/8, 3/8, 3/8, 1/8."""
    estimate = blurred(TRUE, [0.25, 0.5, 0.25])
    assert border_sharpness(estimate, TRUE, ZONE, VOXEL) == pytest.approx(0.75)


def test_lost_contrast_is_not_sharp():
    assert border_sharpness(TRUE**0.4, TRUE, ZONE, VOXEL) == pytest.approx(0.4)
    assert border_sharpness(1 / TRUE, TRUE, ZONE, VOXEL) == pytest.approx(-1)


def test_gradients_across_the_border_do_not_count():
    estimate = TRUE * np.exp(0.5 * y)
    assert border_sharpness(estimate, TRUE, ZONE, VOXEL) == pytest.approx(1)


def test_noise_does_not_make_borders_sharp():
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(SHAPE))
    for kernel, expected in (([1.0], 1), ([0.25, 0.5, 0.25], 0.75)):
        found = border_sharpness(noise * blurred(TRUE, kernel), TRUE, ZONE, VOXEL)
        assert found == pytest.approx(expected, abs=0.03)


def test_voxel_size_weighs_directions():
    """A border along z and one along x, of which the first is blurred."""
    corner = np.where((x < 10) & (z < 8), 0.8, 1.3)
    estimate = np.exp(convolve1d(np.log(corner), [0.25, 0.5, 0.25], axis=0, mode="nearest"))
    zone = border_zone(corner < 1, corner > 1, np.ones(SHAPE, bool))
    coarse_z = border_sharpness(estimate, corner, zone, (4.0, 1.0, 1.0))
    coarse_x = border_sharpness(estimate, corner, zone, (1.0, 1.0, 4.0))
    assert coarse_z == pytest.approx(1, abs=0.05)  # voxels in the corner have both
    assert coarse_x == pytest.approx(0.75)


def test_no_border_is_nan():
    flat = np.full(SHAPE, 0.8)
    assert np.isnan(border_sharpness(TRUE, flat, ZONE, VOXEL))
    assert np.isnan(border_sharpness(TRUE, TRUE, np.zeros(SHAPE, bool), VOXEL))
    assert np.isnan(border_sharpness(0 * TRUE, TRUE, ZONE, VOXEL))


def test_voxels_without_an_estimate_are_left_out():
    estimate = blurred(TRUE, [0.25, 0.5, 0.25])
    estimate[5:7] = 0
    assert border_sharpness(estimate, TRUE, ZONE, VOXEL) == pytest.approx(0.75)
