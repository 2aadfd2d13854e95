from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from mri2qmap.denoiser.nonlocal_means import nonlocal_means

SIGMA = 0.1
SHAPE = (8, 9, 16)


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """(2, 3, 8, 9, 16) contrasts of two piecewise smooth objects."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    regions = (x > 5).astype(float) + (y > 4) + 0.02 * z
    tones = np.random.default_rng(0).uniform(0.2, 1, (2, 3, 1, 1, 1))
    return torch.from_numpy(np.cos(tones * 2 * regions)).float()


@pytest.fixture(scope="module")
def noisy(clean) -> torch.Tensor:
    return clean + SIGMA * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def sigmas(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def by_loops(noisy: np.ndarray, guide: np.ndarray, sigma: float) -> np.ndarray:
    """Reference implementation for some of the voxels; the others are NaN."""
    around = np.stack([uniform_filter(image, 3, mode="nearest") for image in guide])
    restored = np.full_like(noisy, np.nan)
    for here in list(np.ndindex(*SHAPE))[::13]:
        total, weights = 0.0, 0.0
        for offset in itertools.product(range(-6, 7), repeat=3):
            there = tuple(np.add(here, offset))
            inside = all(0 <= c < n for c, n in zip(there, SHAPE, strict=True))
            if not inside or sum(step**2 for step in offset) > 36:
                continue
            a, b = (slice(None), *here), (slice(None), *there)
            distance = np.sum((guide[a] - guide[b]) ** 2)
            distance += 0.7**2 * np.sum((around[a] - around[b]) ** 2)
            weight = max(0.0, 1 - distance / (0.8 * len(guide) * sigma**2)) ** 4
            total = total + weight * noisy[b]
            weights += weight
        restored[(slice(None), *here)] = total / weights
    return restored


@pytest.mark.slow
def test_agrees_with_the_reference_implementation(noisy, clean):
    restored = nonlocal_means(noisy, clean, sigmas(SIGMA, 2 * SIGMA))
    for index, sigma in enumerate((SIGMA, 2 * SIGMA)):
        expected = by_loops(noisy[index].double().numpy(), clean[index].double().numpy(), sigma)
        found = np.where(np.isnan(expected), np.nan, restored[index].numpy())
        assert np.isfinite(found).sum() > 200
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_similar_voxels_are_averaged(noisy, clean):
    restored = nonlocal_means(noisy, clean, sigmas(SIGMA, SIGMA))
    assert (restored - clean).square().mean() < 0.03 * SIGMA**2


def test_low_noise_leaves_the_images_unchanged(clean):
    restored = nonlocal_means(clean, clean, sigmas(1e-4, 1e-4))
    torch.testing.assert_close(restored, clean, atol=1e-4, rtol=0)


def test_a_missing_contrast_stays_zero(noisy):
    images = noisy.clone()
    images[:, 1] = 0
    restored = nonlocal_means(images, images, sigmas(SIGMA, SIGMA))
    assert bool(restored.isfinite().all())
    assert not bool(restored[:, 1].any())


def test_a_volume_smaller_than_the_search_radius():
    images = torch.rand(1, 1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    restored = nonlocal_means(images, torch.zeros_like(images), sigmas(SIGMA))
    torch.testing.assert_close(restored, images.mean((2, 3, 4), keepdim=True).expand_as(images))
