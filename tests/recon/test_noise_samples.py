"""Interference among noise samples."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import expon

from mri2qmap.recon.coil_compression import noise_covariance
from mri2qmap.recon.noise_samples import _median_limit, gaussian_samples


def gaussian(coils: int, count: int, seed: int, mixing: float = 0.4) -> torch.Tensor:
    """Correlated noise of coils with different gains."""
    rng = torch.Generator().manual_seed(seed)
    white = torch.randn(coils, count, dtype=torch.complex64, generator=rng)
    mixed = torch.randn(coils, coils, dtype=torch.complex64, generator=rng)
    gains = torch.logspace(-3, 3, coils)[:, None].to(torch.complex64)
    return gains * ((torch.eye(coils) + mixing * mixed) @ white)


@pytest.mark.parametrize(
    ("coils", "count"), [(1, 1), (1, 2), (1, 1000), (2, 3), (2, 48), (8, 9), (8, 8255), (32, 4000)]
)
def test_gaussian_noise_is_kept_whole(coils, count):
    for seed in range(1000 // coils if count < 100 else 20):
        assert gaussian_samples(gaussian(coils, count, seed)).all()


@pytest.mark.parametrize(("coils", "count"), [(1, 1000), (4, 2000), (8, 8255)])
@pytest.mark.parametrize("height", [8.0, 30.0, 1e3, 1e30])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05])
def test_spikes_in_one_coil_are_found(coils, count, height, share):
    noise = gaussian(coils, count, 5)
    where = torch.arange(max(1, round(share * count))) * 7
    noise[coils // 2, where] += height * noise[coils // 2].abs().square().mean().sqrt()
    kept = gaussian_samples(noise)
    assert sorted((~kept).nonzero()[:, 0].tolist()) == where.tolist()


def test_what_is_small_in_each_coil_is_found():
    """Two coils that receive the same noise: the spike is in their difference."""
    rng = torch.Generator().manual_seed(0)
    common, own = torch.randn(2, 4000, dtype=torch.complex64, generator=rng)
    noise = torch.stack([common, common + 0.01 * own])
    noise[1, 77] += 1.0
    assert (~gaussian_samples(noise)).nonzero()[:, 0].tolist() == [77]


def test_an_offset_is_no_interference():
    noise = gaussian(3, 2000, 0)
    noise += 50 * noise.abs().square().mean(1, keepdim=True).sqrt()
    assert gaussian_samples(noise).all()


def test_a_defective_coil_does_not_hide_a_spike():
    noise = gaussian(3, 2000, 0)
    noise[1] = 0
    noise[2, 9] *= 1e4
    assert (~gaussian_samples(noise)).nonzero()[:, 0].tolist() == [9]


def test_covariance_without_spikes_is_that_of_the_noise():
    clean = gaussian(8, 8255, 1)
    noise = clean.clone()
    noise[3, 1000] += 1e3 * clean[3].abs().max()
    kept = gaussian_samples(noise)
    scale = noise_covariance(clean).diagonal().real.sqrt()
    change = (noise_covariance(noise[:, kept]) - noise_covariance(clean)).abs()
    assert float((change / (scale[:, None] * scale)).max()) < 10 / 8255


def test_limit_is_exceeded_as_often_as_it_should_be():
    rng = np.random.default_rng(0)
    for count, probability in ((5, 0.05), (20, 0.01)):
        limit = _median_limit(count, probability)
        others = np.median(rng.exponential(size=(200_000, count)), axis=1)
        if count % 2 == 0:
            others = np.sort(rng.exponential(size=(200_000, count)))[:, count // 2 - 1]
        found = np.mean(rng.exponential(size=200_000) > limit * others)
        assert found == pytest.approx(probability, rel=0.1)
    assert _median_limit(10**6, 1e-9) == pytest.approx(expon.isf(1e-9) / math.log(2), rel=1e-3)
