import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mri2qmap.evaluation.lesions import compare_lesions, shell

SHAPE = (24, 26, 28)
z, y, x = np.indices(SHAPE)
WHITE = np.ones(SHAPE, bool)


def distance(centre):
    return np.sqrt(sum((i - c) ** 2 for i, c in zip((z, y, x), centre, strict=True)))


@pytest.fixture
def lesions():
    """One lesion of radius 2, and one of a single voxel 5 voxels away."""
    labels = np.zeros(SHAPE, np.int16)
    labels[distance((12, 12, 10)) <= 2] = 1
    labels[12, 12, 17] = 2
    return labels


RECORDS = [
    {"label": 1, "name": "large", "diameter_mm": 5.0},
    {"label": 2, "name": "small", "diameter_mm": 1.0},
]


def volume(labels, background, first, second):
    return np.choose(labels, [background, first, second]).astype(np.float64)


def test_values_by_hand(lesions):
    true = volume(lesions, 0.8, 1.2, 1.0)
    found = volume(lesions, 0.9, 1.1, 0.9)
    t2 = volume(lesions, 0.07, 0.14, 0.05)
    large, small = compare_lesions(
        {"t1": found, "t2": t2}, {"t1": true, "t2": t2}, lesions, RECORDS, WHITE
    )
    assert (large["label"], large["name"], large["diameter_mm"]) == (1, "large", 5.0)
    assert large["voxels"] == 33
    assert small["voxels"] == 1
    assert large["t1"]["mean"] == pytest.approx(1.1)
    assert large["t1"]["mean_true"] == pytest.approx(1.2)
    assert large["t1"]["error"] == pytest.approx(-100 / 12)
    assert large["t1"]["contrast_recovered"] == pytest.approx(0.2 / 0.4)
    assert small["t1"]["error"] == pytest.approx(-10)
    assert small["t1"]["contrast_recovered"] == pytest.approx(0)
    for lesion in (large, small):
        assert lesion["t2"]["error"] == pytest.approx(0)
        assert lesion["t2"]["contrast_recovered"] == pytest.approx(1)
        assert np.isnan(lesion["t1"]["contrast_to_noise_true"])  # no texture, no noise


def test_shell_is_white_matter_2_to_5_voxels_away(lesions):
    white = WHITE & (y < 14)
    box, around = shell(lesions, 1, white)
    found = np.zeros(SHAPE, bool)
    found[box] = around
    core = np.argwhere(lesions == 1)
    to_core = np.sqrt(((np.indices(SHAPE)[:, None] - core.T[..., None, None, None]) ** 2).sum(0))
    nearest = to_core.min(0)
    expected = white & (nearest >= 2) & (nearest <= 5) & (distance((12, 12, 17)) >= 2)
    np.testing.assert_array_equal(found, expected)
    assert expected.sum() < (white & (nearest >= 2) & (nearest <= 5)).sum()  # the other is near


def test_smoothing_loses_the_contrast_that_it_spreads():
    """A smoothed single voxel keeps the peak of the Gaussian, less what reaches the shell."""
    labels = np.zeros(SHAPE, np.int16)
    labels[12, 12, 12] = 1
    true = volume(labels, 0.8, 1.2, 0)
    sigma = 1.0
    estimate = gaussian_filter(true, sigma, truncate=6)
    (lesion,) = compare_lesions({"t1": estimate}, {"t1": true}, labels, [{"label": 1}], WHITE)
    weights = np.exp(-(distance((12, 12, 12)) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    radius = distance((12, 12, 12))
    expected = weights.max() - weights[(radius >= 2) & (radius <= 5)].mean()
    assert lesion["t1"]["contrast_recovered"] == pytest.approx(expected, rel=1e-3)
    assert lesion["name"] is None


def test_contrast_to_noise(lesions):
    true = volume(lesions, 0.8, 1.2, 0.4)
    noise = 0.05 * np.random.default_rng(0).standard_normal(SHAPE)
    noisy = true + np.where(lesions == 0, noise, 0)
    large, small = compare_lesions({"t1": noisy}, {"t1": true}, lesions, RECORDS, WHITE)
    assert large["t1"]["contrast_to_noise"] == pytest.approx(8, rel=0.1)
    assert small["t1"]["contrast_to_noise"] == pytest.approx(-8, rel=0.1)
    textured = compare_lesions({"t1": true}, {"t1": noisy}, lesions, RECORDS, WHITE)[0]["t1"]
    assert textured["contrast_to_noise_true"] == pytest.approx(8, rel=0.1)
    assert np.isnan(textured["contrast_to_noise"])


def test_no_shell_has_values_but_no_contrast(lesions):
    true = volume(lesions, 0.8, 1.2, 1.0)
    large, _ = compare_lesions({"t1": true}, {"t1": true}, lesions, RECORDS, np.zeros(SHAPE, bool))
    assert large["shell_voxels"] == 0
    assert large["t1"]["error"] == 0
    assert np.isnan(large["t1"]["contrast_recovered"])
    assert np.isnan(large["t1"]["contrast_to_noise"])


def test_a_lesion_without_contrast_recovers_nothing(lesions):
    true = volume(lesions, 0.8, 0.8, 1.0)
    large, _ = compare_lesions({"t1": 1.1 * true}, {"t1": true}, lesions, RECORDS, WHITE)
    assert np.isnan(large["t1"]["contrast_recovered"])


def test_records_and_labels_need_not_agree(lesions):
    true = volume(lesions, 0.8, 1.2, 1.0)
    records = [{"label": 7, "name": "smaller than a voxel"}, RECORDS[0]]
    found = compare_lesions({"t1": true}, {"t1": true}, lesions, records, WHITE)
    assert [(lesion["label"], lesion["voxels"]) for lesion in found] == [(7, 0), (1, 33), (2, 1)]
    assert np.isnan(found[0]["t1"]["mean"])
    assert found[2]["name"] is None


def test_a_lesion_at_the_face_of_the_volume():
    labels = np.zeros(SHAPE, np.int16)
    labels[0, 0, 0] = 3
    true = np.where(labels == 3, 1.2, 0.8)
    (lesion,) = compare_lesions({"t1": true}, {"t1": true}, labels, [], WHITE)
    radius = distance((0, 0, 0))
    assert lesion["shell_voxels"] == ((radius >= 2) & (radius <= 5)).sum()
    assert lesion["t1"]["contrast_recovered"] == pytest.approx(1)
