from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mri2qmap.denoiser import nonlocal_wiener
from mri2qmap.denoiser.nonlocal_wiener import GuidedWiener, nonlocal_wiener_filter
from mri2qmap.machine.process_group import ProcessGroup

SIGMA = 0.1
SHAPE = (8, 9, 11)
REACH, GROUP, VARIANCE_LOST = 5, 48, 1.2


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """(2, 3, 8, 9, 11) contrasts of two objects of two textured tissues each."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    tissue = 1 / (1 + np.exp(-2 * (x + 0.3 * y - 0.4 * z - 6)))
    tones = np.random.default_rng(0).uniform(0.2, 1, (2, 3, 2, 1, 1, 1))
    texture = 0.02 * np.random.default_rng(1).standard_normal((2, 1, *SHAPE))
    images = tones[:, :, 0] * (1 - tissue) + tones[:, :, 1] * tissue + texture
    return torch.from_numpy(images).float()


@pytest.fixture(scope="module")
def noisy(clean) -> torch.Tensor:
    return clean + SIGMA * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def sigmas(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def by_loops(
    noisy: np.ndarray,
    guide: np.ndarray,
    sigma: float,
    edge: int,
    stride: int,
    mean_share: float = 0.0,
) -> np.ndarray:
    """Reference implementation, cube by cube with covariances of the cube's size."""

    def cube(of: np.ndarray, corner: tuple[int, ...]) -> np.ndarray:
        return of[(slice(None), *(slice(c, c + edge) for c in corner))].ravel()

    total, weights = np.zeros(noisy.shape), np.zeros(noisy.shape)
    lines = [sorted({*range(0, n - edge, stride), n - edge}) for n in SHAPE]
    everywhere = list(np.ndindex(*(n - edge + 1 for n in SHAPE)))
    for corner in itertools.product(*lines):
        near = [c for c in everywhere if np.sum(np.subtract(c, corner) ** 2) <= REACH**2]
        own = cube(guide, corner)
        near.sort(key=lambda c: np.sum((cube(guide, c) - own) ** 2))
        group = near[:GROUP]
        guiding = np.array([cube(guide, c) for c in group])
        mean = guiding.mean(0)
        covariance = VARIANCE_LOST * np.cov(guiding.T, bias=True)
        gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(len(mean)))
        weight = 1 / (1 + np.sum(gain**2))
        mean_of_noisy = np.mean([cube(noisy, place) for place in group], axis=0)
        mean = (1 - mean_share) * mean + mean_share * mean_of_noisy
        for place in group:
            restored = mean + gain @ (cube(noisy, place) - mean)
            where = (slice(None), *(slice(c, c + edge) for c in place))
            total[where] += weight * restored.reshape(-1, edge, edge, edge)
            weights[where] += weight
    return total / weights


@pytest.mark.parametrize(("edge", "stride"), [(2, 2), (3, 3), (4, 4), (4, 2)])
def test_agrees_with_the_reference_implementation(noisy, clean, edge, stride, monkeypatch):
    monkeypatch.setattr(nonlocal_wiener, "_REACH", REACH)  # smaller than these volumes
    restored = nonlocal_wiener_filter(noisy, clean, sigmas(SIGMA, 2 * SIGMA), edge, stride)
    for index, sigma in enumerate((SIGMA, 2 * SIGMA)):
        pair = noisy[index].double().numpy(), clean[index].double().numpy()
        expected = by_loops(*pair, sigma, edge, stride)
        np.testing.assert_allclose(restored[index].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("mean_share", [0.0, 0.5, 1.0])
def test_means_are_shared_between_guide_and_noisy_images(noisy, clean, mean_share, monkeypatch):
    monkeypatch.setattr(nonlocal_wiener, "_REACH", REACH)
    restore = GuidedWiener(clean[0], SIGMA, 3, mean_share=mean_share)
    pair = noisy[0].double().numpy(), clean[0].double().numpy()
    expected = by_loops(*pair, SIGMA, 3, 3, mean_share)
    np.testing.assert_allclose(restore(noisy[0]).numpy(), expected, atol=2e-5)


def test_with_a_fixed_guide_the_filter_is_affine(noisy, clean):
    restore = GuidedWiener(clean[0], SIGMA, 3, mean_share=0.5)
    other = torch.randn(clean[0].shape, generator=torch.Generator().manual_seed(3))
    mixed = restore(0.3 * noisy[0] + 0.7 * other)
    torch.testing.assert_close(
        mixed, 0.3 * restore(noisy[0]) + 0.7 * restore(other), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("count", [2, 5])
def test_processes_share_the_groups(noisy, clean, count):
    """The sums over the groups of all processes are those of a single one."""
    totals = []

    class Member(ProcessGroup):
        def sum_(self, tensor):
            totals.append(tensor.clone())
            return tensor

    for rank in range(count):  # more processes than planes of reference cubes
        GuidedWiener(clean[0], SIGMA, 3, processes=Member(rank, count))(noisy[0])
    GuidedWiener(clean[0], SIGMA, 3, processes=Member())(noisy[0])
    torch.testing.assert_close(sum(totals[:-1]), totals[-1], atol=1e-4, rtol=1e-5)


def test_noise_far_below_the_details_leaves_the_images(clean):
    """The inverse must not fail in single precision."""
    images = 1e3 * clean[0]
    restored = GuidedWiener(images, 1e-12, 3)(images + 1)
    assert bool(restored.isfinite().all())
    assert float((restored - images - 1).abs().max()) < 10


def test_processing_in_slabs_gives_the_same_result(noisy, clean, monkeypatch):
    whole = nonlocal_wiener_filter(noisy, clean, sigmas(SIGMA, SIGMA), 2)
    monkeypatch.setattr(nonlocal_wiener, "_DISTANCES", {"cpu": 1})
    slabs = nonlocal_wiener_filter(noisy, clean, sigmas(SIGMA, SIGMA), 2)
    torch.testing.assert_close(slabs, whole, atol=1e-6, rtol=0)


def test_with_the_true_images_as_guide_little_noise_remains(noisy, clean):
    restored = nonlocal_wiener_filter(noisy, clean, sigmas(SIGMA, SIGMA), 3)
    assert (restored - clean).square().mean() < 0.05 * SIGMA**2


def test_result_is_better_than_its_guide(noisy, clean):
    guide = clean + 0.3 * (noisy - clean)
    restored = nonlocal_wiener_filter(noisy, guide, sigmas(SIGMA, SIGMA), 3)
    assert (restored - clean).square().mean() < 0.9 * (guide - clean).square().mean()


def test_low_noise_leaves_the_images_unchanged(clean):
    noise = 0.005 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    restored = nonlocal_wiener_filter(clean + noise, clean, sigmas(0.005, 0.005), 3)
    assert (restored - clean).square().mean().sqrt() < 0.005


def test_a_missing_contrast_stays_zero(noisy):
    images = noisy.clone()
    images[:, 1] = 0
    restored = nonlocal_wiener_filter(images, images, sigmas(SIGMA, SIGMA), 3)
    assert bool(restored.isfinite().all())
    assert not bool(restored[:, 1].any())


def test_every_voxel_is_denoised_if_all_cubes_are_equal():
    noisy = torch.randn(1, 1, 13, 12, 11, generator=torch.Generator().manual_seed(2))
    restored = nonlocal_wiener_filter(noisy, torch.full_like(noisy, 0.5), sigmas(SIGMA), 3)
    torch.testing.assert_close(restored, torch.full_like(noisy, 0.5))


def test_objects_of_a_batch_are_independent(noisy, clean):
    both = nonlocal_wiener_filter(noisy, clean, sigmas(SIGMA, 0.05), 3)
    alone = nonlocal_wiener_filter(noisy[1:], clean[1:], sigmas(0.05), 3)
    assert torch.equal(both[1:], alone)


def test_processing_groups_in_parts_gives_the_same_result(noisy, clean, monkeypatch):
    whole = nonlocal_wiener_filter(noisy, clean, sigmas(SIGMA, SIGMA), 3)
    monkeypatch.setattr(nonlocal_wiener, "_AT_ONCE", {"cpu": 7})
    monkeypatch.setattr(nonlocal_wiener, "_SORTED", 7)
    parts = nonlocal_wiener_filter(noisy, clean, sigmas(SIGMA, SIGMA), 3)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("edge", [0, 5])
def test_bad_edges_are_refused(noisy, edge):
    with pytest.raises(ValueError, match="expected 1 to 4"):
        nonlocal_wiener_filter(noisy, noisy, sigmas(SIGMA, SIGMA), edge)


@pytest.mark.parametrize("stride", [0, 4])
def test_bad_strides_are_refused(clean, stride):
    with pytest.raises(ValueError, match="expected 1 to the edge, 3"):
        GuidedWiener(clean[0], SIGMA, 3, stride)


def test_images_of_another_shape_than_the_guide_are_refused(clean):
    with pytest.raises(ValueError, match="expected that of the guide"):
        GuidedWiener(clean[0], SIGMA, 3)(clean[0][:2])


@pytest.mark.parametrize(
    ("noisy", "guide"),
    [
        ((1, 3, 8, 8, 8), (1, 3, 8, 8, 9)),
        ((3, 8, 8, 8), (3, 8, 8, 8)),
        ((1, 3, 8, 7, 8), (1, 3, 8, 7, 8)),
    ],
)
def test_bad_shapes_are_refused(noisy, guide):
    with pytest.raises(ValueError, match="sides of at least 8"):
        nonlocal_wiener_filter(torch.zeros(noisy), torch.zeros(guide), sigmas(SIGMA), 3)
