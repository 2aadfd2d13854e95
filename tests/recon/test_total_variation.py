"""Finite differences against numpy and each other, total variation against counted edges."""

import math

import numpy as np
import pytest
import torch

from mri2qmap.operators import FiniteDifferences
from mri2qmap.recon.total_variation import (
    TotalVariation,
    edge_keeping_weights,
    project_dual_ball,
    total_variation,
)


def random(*shape, seed=0, dtype=torch.complex64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32])
@pytest.mark.parametrize("shape", [(5, 6, 7), (2, 4, 3, 5), (2, 3, 4, 1, 4)])
def test_gradient_is_the_difference_of_neighbours(shape, dtype):
    volumes = random(*shape, dtype=dtype)
    found = FiniteDifferences(volumes.shape)(volumes).numpy()
    for axis in (0, 1, 2):
        from_the_left = len(shape) - 3 + axis
        last = np.take(volumes.numpy(), [-1], from_the_left)
        expected = np.diff(volumes.numpy(), axis=from_the_left, append=last)
        np.testing.assert_array_equal(found[axis], expected)


def test_total_variation_of_a_block_is_its_surface():
    """Each of the six faces counts its area, but for where differences of two or three meet.

    Forward differences across the three high faces lie in the last voxels of the block: at the
    edges between these faces, and at their corner, they are components of one gradient.
    """
    volume = torch.zeros(12, 12, 12)
    volume[3:8, 2:8, 4:8] = 2.0
    z, y, x = 5, 6, 4
    high = (z - 1) * (y - 1) + (y - 1) * (x - 1) + (x - 1) * (z - 1)
    edges = (z - 1) + (y - 1) + (x - 1)
    low = z * y + y * x + x * z
    expected = 2 * (low + high + math.sqrt(2) * edges + math.sqrt(3))
    assert total_variation(volume) == pytest.approx(expected)


def test_total_variation_takes_directions_and_parts_together_and_volumes_apart():
    volumes = torch.zeros(2, 2, 2, 2, dtype=torch.complex64)
    volumes[0, 0, 0, 0] = 3 + 4j  # three differences of length 5 in one voxel
    volumes[1, 0, 0, 0] = 2j
    assert total_variation(volumes) == pytest.approx(math.sqrt(3) * (5 + 2))


def test_total_variation_ignores_the_global_phase_and_a_constant():
    volumes = random(2, 4, 5, 6)
    changed = volumes * torch.exp(torch.tensor(0.7j)) + (2 - 1j)
    assert total_variation(changed) == pytest.approx(total_variation(volumes), rel=1e-5)


def test_limited_lengths():
    differences = torch.zeros(3, 4, dtype=torch.complex64)
    differences[:, 0] = torch.tensor([3.0, 0.0, 4.0j])  # of length 5, shortened
    differences[:, 1] = torch.tensor([0.6j, 0.8, 0.0])  # of length 1, left
    differences[:, 2] = torch.tensor([0.0, 2.0, 0.0])  # exactly at the limit
    limited = project_dual_ball(differences, 2.0)
    torch.testing.assert_close(limited[:, 0], 0.4 * differences[:, 0])
    assert torch.equal(limited[:, 1:], differences[:, 1:])
    assert torch.equal(project_dual_ball(differences, 0.0), torch.zeros_like(differences))


def test_each_voxel_may_have_a_limit_of_its_own():
    differences = random(3, 2, 4, 4, 4)
    limits = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(1))
    found = project_dual_ball(differences, limits)
    for voxel in ((0, 0, 0), (1, 3, 2), (3, 2, 1)):
        expected = project_dual_ball(differences[:, :, *voxel], float(limits[voxel]))
        torch.testing.assert_close(found[:, :, *voxel], expected)


def test_edges_of_the_images_make_the_weights_fall():
    """Halfway at a jump of the edge contrast, least at clear edges, one where all is even."""
    image = torch.ones(4, 4, 8)
    image[..., 4:] += 1e-3  # the intensity stays near 1
    small = edge_keeping_weights(image[None], (1.0,), 1e-3, 0.03)
    assert float(small[0, 0, 3]) == pytest.approx(0.625, abs=1e-3)
    small[..., 3] = 1.0
    assert torch.equal(small, torch.ones(4, 4, 8))
    clear = edge_keeping_weights(image[None], (1.0,), 1e-6, 0.03)
    assert float(clear[0, 0, 3]) == pytest.approx(0.25, abs=1e-5)


def test_weights_at_edges_by_hand():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    squared = torch.zeros(3, 4, 5)
    for image, weight in zip(images, (0.5, 2.0), strict=True):
        brightness = float((image**3).sum() / (image**2).sum())
        padded = np.pad(image.numpy(), ((0, 1),) * 3, mode="edge")
        for axis in range(3):
            jumps = np.diff(padded, axis=axis)[:3, :4, :5] / brightness
            squared += weight * torch.from_numpy(jumps) ** 2
    brightness = sum(image * (image**2).sum() / (image**3).sum() for image in images)
    ordered = squared.sqrt()[brightness > 0.1].sort().values
    contrast = 0.3 + 24 * (float(ordered[int(0.1 * (len(ordered) - 1))]) - 0.010)
    assert contrast > 0.5
    expected = (0.3 / contrast) ** 0.55 * (0.25 + 0.75 / (1 + squared / contrast**2))
    torch.testing.assert_close(edge_keeping_weights(images, (0.5, 2.0), 0.3, 0.03), expected)


def test_what_does_not_stand_out_from_the_tissue_is_no_edge():
    """Uniform tissue with a border, and the same with more and more texture."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.randn(16, 16, 16, generator=generator)
    border = torch.ones(16, 16, 16)
    border[8:] = 1.4
    found = [
        edge_keeping_weights((border + amount * texture)[None], (1.0,), 0.12, 0.03)
        for amount in (0.0, 0.005, 0.03, 0.06)
    ]
    flat, at_border = (
        [float(c[part].mean()) for c in found] for part in (slice(1, 6), slice(7, 8))
    )
    assert flat[0] == 1
    # What remains of the noise counts as uniform; then the weights fall where the tissue varies ...
    assert flat[1] > 0.98
    assert flat[1] > flat[2] > flat[3]
    # ... and rise relative to those at the border.
    ratio = [a / b for a, b in zip(at_border, flat, strict=True)]
    assert ratio[1] == pytest.approx(ratio[0], rel=0.05)
    assert ratio[0] < ratio[2] < ratio[3]
    assert all(0 < float(c.min()) and float(c.max()) <= 1 for c in found)
    # More remains in images restored from more noise, and counts as uniform, too.
    image = (border + 0.03 * texture)[None]
    noisier = edge_keeping_weights(image, (1.0,), 0.12, 0.3)
    assert float(noisier[1:6].mean()) > flat[2]


def test_many_voxels_are_sampled_for_the_quantile(monkeypatch):
    image = 1 + 0.1 * torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = edge_keeping_weights(image, (1.0,), 0.1, 0.03)
    monkeypatch.setattr("mri2qmap.recon.total_variation._SAMPLES", 1000)
    sampled = edge_keeping_weights(image, (1.0,), 0.1, 0.03)
    assert not torch.equal(sampled, expected)
    torch.testing.assert_close(sampled, expected, rtol=0.1, atol=0)


def test_weights_at_edges_do_not_depend_on_the_units_of_an_image_nor_on_images_left_out():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    expected = edge_keeping_weights(images, (1.0, 0.0), 0.1, 0.03)
    torch.testing.assert_close(edge_keeping_weights(1e6 * images, (1.0, 0.0), 0.1, 0.03), expected)
    torch.testing.assert_close(edge_keeping_weights(images[:1], (1.0,), 0.1, 0.03), expected)
    nothing = torch.stack([images[0], torch.zeros(3, 4, 5)])
    torch.testing.assert_close(edge_keeping_weights(nothing, (1.0, 1.0), 0.1, 0.03), expected)


def test_limiting_is_the_projection_onto_the_dual_ball():
    """The nearest point: what was taken away makes no acute angle with any way into the ball."""
    differences = 3 * random(3, 2, 4, 4, 4)
    limited = project_dual_ball(differences, 1.5)
    assert float(torch.linalg.vector_norm(limited, dim=0).max()) <= 1.5 * (1 + 1e-6)
    for seed in range(20):
        other = project_dual_ball(3 * random(3, 2, 4, 4, 4, seed=seed + 1), 1.5)
        angle = ((differences - limited).conj() * (other - limited)).real.sum(0)
        assert float(angle.max()) < 1e-5


def test_total_variation_is_what_the_dual_ball_supports():
    """TV(x) = max <x, D^H p> over |p| <= 1: attained by the direction of the gradient."""
    volumes = random(2, 5, 4, 6)
    best = project_dual_ball(FiniteDifferences(volumes.shape)(volumes) * 1e6, 1.0)
    attained = torch.vdot(
        FiniteDifferences(volumes.shape).H(best).flatten(), volumes.flatten()
    ).real
    assert float(attained) == pytest.approx(total_variation(volumes), rel=1e-5)


def test_split_variation_denoises():
    """argmin 1/2 ||x - y||^2 + lambda TV(x): a dual field within its ball certifies the minimum."""
    noisy, strength = random(2, 4, 5, 6), 0.3
    variation = TotalVariation(penalty=1.5, limit=strength / 1.5)
    units = torch.eye(120).reshape(120, 4, 5, 6)
    system = (units + variation.quadratic(units.shape)(units)).reshape(120, 120)
    volumes = noisy
    for _ in range(400):
        right = (noisy + variation.step(volumes).pull).reshape(2, -1)
        volumes = torch.linalg.solve(system.to(right.dtype), right, left=False).reshape(noisy.shape)
    pull = (noisy - volumes) / strength  # D^H p for the p of the minimum
    length = torch.vdot(pull.flatten(), volumes.flatten()).real
    assert float(length) == pytest.approx(total_variation(volumes), rel=1e-3)
    for seed in range(20):  # and no other direction supports more than its total variation
        other = random(2, 4, 5, 6, seed=seed)
        assert torch.vdot(pull.flatten(), other.flatten()).real < total_variation(other)
