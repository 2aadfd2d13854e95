import math

import numpy as np
import pytest
import torch

from mri2qmap.evaluation.metrics import (
    OBJECT,
    agreement,
    air_mask,
    central_slices,
    cosine_distance,
    intensity_scale,
    mape,
    masked_psnr,
    psnr_ssim,
)


def test_mape_by_hand():
    reference = np.array([1.0, 2.0, 4.0, 0.0])
    estimate = np.array([1.1, 1.5, 4.0, 7.0])
    mask = np.array([True, True, True, False])
    assert mape(estimate, reference, mask) == pytest.approx(100 * (0.1 + 0.25 + 0) / 3)
    assert np.isnan(mape(estimate, reference, np.zeros(4, bool)))


def test_agreement_by_hand():
    reference = np.array([1.0, 1.0, 2.0, 2.0, 0.0])
    estimate = np.array([1.1, 1.2, 2.0, 2.2, 9.0])
    found = agreement(estimate, reference, np.array([True] * 4 + [False]))
    difference = np.array([10.0, 20, 0, 10])
    assert found.bias == pytest.approx(10)
    assert found.limits == pytest.approx(1.96 * np.sqrt(50))
    assert found.correlation_truth == pytest.approx(np.corrcoef(difference, reference[:4])[0, 1])
    mean = [1.05, 1.1, 2.0, 2.1]
    assert found.correlation_mean == pytest.approx(np.corrcoef(difference, mean)[0, 1])


def test_agreement_tells_bias_from_spread():
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.5, 2, (20, 20, 20))
    mask = np.ones(reference.shape, bool)
    biased = agreement(1.1 * reference, reference, mask)
    assert (biased.bias, biased.limits) == pytest.approx((10, 0), abs=1e-6)
    assert np.isnan(biased.correlation_truth)
    noisy = agreement(
        reference * (1 + 0.05 * rng.standard_normal(reference.shape)), reference, mask
    )
    assert noisy.bias == pytest.approx(0, abs=0.2)
    assert noisy.limits == pytest.approx(1.96 * 5, rel=0.03)
    assert abs(noisy.correlation_truth) < 0.04
    pulled = agreement(reference**0.8, reference, mask)  # towards 1
    assert pulled.correlation_truth < -0.9
    assert np.all(np.isnan(agreement(reference, reference, ~mask)))


def test_cosine_distance_by_hand():
    x = np.array([[1, 1, 1j, 0], [0, 1, 0, 0]], complex).reshape(2, 1, 1, 4)
    y = np.array([[5, 1, 1, 1], [0, 0, 0, 0]], complex).reshape(2, 1, 1, 4)
    mask = np.ones((1, 1, 4), bool)
    # Parallel, at 45 degrees, parallel up to phase, and missing.
    expected = 100 * (0 + (1 - np.sqrt(0.5)) + 0 + 1) / 4
    assert cosine_distance(x, y, mask) == pytest.approx(expected)
    assert cosine_distance(3j * x, y, mask) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "start", "stop"), [(224, 87, 137), (64, 25, 39), (3, 1, 2)])
def test_central_slices_keep_the_papers_share(n, start, stop):
    assert central_slices((n, 8, 8)) == slice(start, stop)


def test_psnr_by_hand():
    reference = np.zeros((1, 12, 12))
    reference[0, 2:10, 2:10] = 2.0
    mask = reference > 0
    estimate = reference.copy()
    estimate[mask] += 0.2
    estimate[~mask] = 100  # air does not count
    psnr, ssim = psnr_ssim(estimate, reference, mask)
    assert psnr == pytest.approx(20 * np.log10(2 / 0.2))
    assert 50 < ssim < 100
    perfect = psnr_ssim(reference, reference, mask)
    assert perfect[0] == np.inf
    assert perfect[1] == pytest.approx(100)


def test_psnr_uses_central_slices_only():
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.5, 1, (22, 10, 10))
    estimate = reference + 1.0
    estimate[central_slices((22, 10, 10))] -= 0.9
    psnr, _ = psnr_ssim(estimate, reference, np.ones((22, 10, 10), bool))
    peak = reference[central_slices((22, 10, 10))].max()
    assert psnr == pytest.approx(20 * np.log10(peak / 0.1))


def test_ssim_falls_with_noise_and_structure_lost():
    rng = np.random.default_rng(0)
    reference = np.kron(rng.uniform(0.2, 1, (1, 4, 4)), np.ones((1, 6, 6)))
    mask = np.ones(reference.shape, bool)
    values = [
        psnr_ssim(reference + s * rng.standard_normal(reference.shape), reference, mask)[1]
        for s in (0.01, 0.05, 0.2)
    ]
    assert values == sorted(values, reverse=True)


def test_an_empty_mask_gives_nan():
    empty = np.zeros((4, 9, 9))
    assert np.all(np.isnan(psnr_ssim(empty, empty, empty > 0)))


def test_scale_ignores_outliers():
    reference = np.linspace(1, 2, 99)
    estimate = reference / 3
    estimate[:10] = 1e6
    assert intensity_scale(estimate, reference, np.ones(99, bool)) == pytest.approx(3)
    assert intensity_scale(0 * estimate, reference, np.ones(99, bool)) == 0


def test_air_is_low_density():
    density = np.array([0.0, 0.05, 0.2, 1.0, 1.0] * 20)
    np.testing.assert_array_equal(air_mask(density), density > 0.1)


def test_masked_psnr_counts_the_object_only():
    truth = torch.zeros(4, 4, 4)
    truth[:2] = 0.7
    restored = truth + 0.1 * (truth > 0) + 5.0 * (truth == 0)
    assert masked_psnr(restored, truth) == pytest.approx(20, abs=1e-4)


def test_masked_psnr_of_several_volumes_is_of_their_mean_squared_error():
    truth = torch.full((2, 3, 3, 3), 0.5)
    restored = truth + torch.tensor([0.0, 0.1])[:, None, None, None]
    expected = -10 * math.log10(0.005)
    assert masked_psnr(restored, truth) == pytest.approx(expected, abs=1e-4)


def test_masked_psnr_without_error_or_object():
    truth = torch.full((2, 2, 2), 2 * OBJECT)
    assert masked_psnr(truth, truth) == math.inf
    assert math.isnan(masked_psnr(truth, torch.full_like(truth, OBJECT / 2)))
    with pytest.raises(ValueError, match="truth"):
        masked_psnr(truth[0], truth)
