import itertools

import numpy as np
import pytest
from scipy.ndimage import convolve1d, gaussian_filter

from mri2qmap.evaluation.texture import (
    NO_TEXTURE,
    WAVELENGTHS_MM,
    has_texture,
    local_deviation,
    local_deviation_ratio,
    spectrum_ratio,
    texture_gain,
)

SHAPE = (30, 32, 34)
LEVEL = 0.8
VOXEL = (1.0, 1.0, 1.0)
z, y, x = np.indices(SHAPE)
BALL = (z - 15) ** 2 + (y - 16) ** 2 + (x - 17) ** 2 < 13**2


def white_noise(seed, deviation):
    return deviation * np.random.default_rng(seed).standard_normal(SHAPE)


@pytest.fixture(scope="module")
def reference():
    """Texture of 5 % of the mean in a ball, and something else outside."""
    return np.where(BALL, LEVEL + white_noise(0, 0.04), 4.0)


def test_deviation_is_that_of_the_noise_in_the_mask_alone(reference):
    assert local_deviation(reference, BALL) == pytest.approx(0.04, rel=0.02)


def test_deviation_by_hand():
    """Only the middle of a 3^3 cube has a full window; the others have 8, 12 or 18 of 27 voxels."""
    values = np.random.default_rng(3).standard_normal((3, 3, 3))
    faces = [
        values[:, :, :2], values[:, :, 1:], values[:, :2], values[:, 1:], values[:2], values[1:],
    ]  # fmt: skip
    expected = np.sqrt(np.mean([values.var(ddof=1), *(face.var(ddof=1) for face in faces)]))
    padded = np.pad(values, 4, constant_values=50.0)
    mask = np.pad(np.ones((3, 3, 3), bool), 4)
    assert local_deviation(padded, mask, window=3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_scaled_texture(reference, factor):
    estimate = np.where(BALL, LEVEL + factor * (reference - LEVEL), 0)
    assert local_deviation_ratio(estimate, reference, BALL) == pytest.approx(factor, rel=1e-9)
    found = texture_gain(estimate, reference, BALL)
    assert found.gain == pytest.approx(factor, rel=1e-9)
    assert found.noise == pytest.approx(0, abs=1e-9)
    bands = spectrum_ratio(estimate, reference, BALL, VOXEL)
    assert [band.wavelength_mm for band in bands] == list(itertools.pairwise(WAVELENGTHS_MM))
    for band in bands[:3]:
        assert band.power_ratio == pytest.approx(factor**2, rel=1e-6)
        assert band.coherence == pytest.approx(1, rel=1e-6)


def test_noise_raises_the_ratio_but_not_the_gain(reference):
    estimate = reference + white_noise(1, 0.08)
    ratio = local_deviation_ratio(estimate, reference, BALL)
    assert ratio == pytest.approx(np.sqrt(1 + 0.08**2 / 0.04**2), rel=0.03)
    found = texture_gain(estimate, reference, BALL)
    assert found.gain == pytest.approx(1, abs=0.05)
    # The high-pass takes the mean of 125 voxels, fewer at the border, out of the noise.
    assert found.noise == pytest.approx(100 * 0.08 / LEVEL, rel=0.03)
    for band in spectrum_ratio(estimate, reference, BALL, VOXEL)[:2]:
        assert band.power_ratio == pytest.approx(5, rel=0.2)
        assert band.coherence == pytest.approx(1 / 5, abs=0.05)


def test_wrong_texture_of_the_right_strength_is_seen(reference):
    estimate = LEVEL + white_noise(2, 0.04)
    assert local_deviation_ratio(estimate, reference, BALL) == pytest.approx(1, abs=0.03)
    assert abs(texture_gain(estimate, reference, BALL).gain) < 0.05
    for band in spectrum_ratio(estimate, reference, BALL, VOXEL)[:2]:
        assert band.coherence < 0.05


def test_smoothing_takes_the_short_wavelengths(reference):
    kernel = np.array([0.25, 0.5, 0.25])
    filled = LEVEL + white_noise(0, 0.04)
    estimate = filled
    for axis in range(3):
        estimate = convolve1d(estimate, kernel, axis=axis, mode="wrap")
    ratio = local_deviation_ratio(estimate, filled, BALL)
    # The variance falls by the sum of squares of the kernel, less what the local mean takes.
    assert ratio == pytest.approx(np.sqrt((kernel @ kernel) ** 3), rel=0.15)
    short, middle, long, _ = spectrum_ratio(estimate, filled, BALL, VOXEL)
    frequencies = np.meshgrid(*[np.fft.fftfreq(64)] * 3, indexing="ij")
    size = np.sqrt(sum(f**2 for f in frequencies))
    gain = np.prod([(1 + np.cos(2 * np.pi * f)) / 2 for f in frequencies], axis=0)
    for band, low, high in ((short, 1 / 4, 1 / 2), (middle, 1 / 8, 1 / 4), (long, 1 / 16, 1 / 8)):
        expected = np.mean(gain[(size > low) & (size <= high)] ** 2)
        assert band.power_ratio == pytest.approx(expected, rel=0.15, abs=0.01)


def test_wavelengths_are_in_millimetres(reference):
    bands = spectrum_ratio(reference, reference, BALL, (3.0, 3.0, 3.0))
    assert np.isnan(bands[0].power_ratio)  # shorter than twice the voxels
    assert [band.power_ratio for band in bands[1:]] == pytest.approx([1, 1, 1])
    wave = np.where(BALL, LEVEL + 0.1 * np.sin(2 * np.pi * x * 2 / 10), 0)
    added = reference + np.where(BALL, wave - LEVEL, 0)  # a wavelength of 5 voxels of 2 mm
    ratios = [b.power_ratio for b in spectrum_ratio(added, reference, BALL, (2.0, 2.0, 2.0))]
    assert ratios[2] > 5  # 8 to 16 mm
    assert ratios[1] < 1.5


def test_truth_without_texture_has_no_ratio():
    flat = np.full(SHAPE, LEVEL)
    slope = flat * (1 + 0.1 * NO_TEXTURE * x / 5)
    estimate = flat + white_noise(4, 0.08)
    for reference in (flat, slope, flat.astype(np.float32)):
        assert not has_texture(reference, BALL)
        assert np.isnan(local_deviation_ratio(estimate, reference, BALL))
        found = texture_gain(estimate, reference, BALL)
        assert np.isnan(found.gain)
        assert found.noise == pytest.approx(10, rel=0.03)
        bands = spectrum_ratio(estimate, reference, BALL, VOXEL)
        assert all(np.isnan(b.power_ratio) and np.isnan(b.coherence) for b in bands)


def test_thin_and_empty_masks_give_nan(reference):
    thin = BALL & (z == 15)  # 25 of 125 voxels of a window at most
    for mask in (thin, np.zeros(SHAPE, bool)):
        assert np.isnan(local_deviation_ratio(reference, reference, mask))
        assert np.all(np.isnan(texture_gain(reference, reference, mask)))
        assert all(
            np.isnan(b.power_ratio) for b in spectrum_ratio(reference, reference, mask, VOXEL)
        )


def test_an_empty_estimate_has_no_power(reference):
    nothing = np.zeros(SHAPE)
    assert local_deviation_ratio(nothing, reference, BALL) == 0
    assert texture_gain(nothing, reference, BALL).gain == 0
    band = spectrum_ratio(nothing, reference, BALL, VOXEL)[0]
    assert band.power_ratio == 0
    assert np.isnan(band.coherence)


def test_values_outside_the_mask_do_not_count(reference):
    estimate = reference + white_noise(5, 0.02)
    other = np.where(BALL, estimate, 1e6)
    for metric in (local_deviation_ratio, texture_gain):
        assert metric(other, reference, BALL) == pytest.approx(metric(estimate, reference, BALL))
    first, second = (spectrum_ratio(e, reference, BALL, VOXEL) for e in (estimate, other))
    assert [b.power_ratio for b in first[:3]] == pytest.approx([b.power_ratio for b in second[:3]])


def test_a_bias_is_no_texture(reference):
    smooth = gaussian_filter(np.random.default_rng(6).standard_normal(SHAPE), 12)
    estimate = reference + 0.1 + 0.02 * smooth / smooth.std()
    assert local_deviation_ratio(estimate, reference, BALL) == pytest.approx(1, abs=0.05)
    assert texture_gain(estimate, reference, BALL).gain == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("window", [1, 4])
def test_even_and_small_windows_are_refused(reference, window):
    with pytest.raises(ValueError, match="odd"):
        local_deviation(reference, BALL, window)
