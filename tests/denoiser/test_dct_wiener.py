from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import kaiser

from mri2qmap.denoiser.dct_wiener import dct_wiener_filter


def pieces(seed: int = 0) -> torch.Tensor:
    """(1, 3, 16, 16, 24) three contrasts of a piecewise constant object, intensity scale 1."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in (16, 16, 24)), indexing="ij")
    inner = (z - 8) ** 2 + (y - 7) ** 2 + (x - 12) ** 2 < 30
    outer = (z - 8) ** 2 + (y - 8) ** 2 + (x - 12) ** 2 < 130
    levels = np.random.default_rng(seed).uniform(0.2, 1, (3, 2))
    images = [np.where(inner, a, np.where(outer, b, 0)) for a, b in levels]
    return torch.from_numpy(np.stack(images)[None]).float()


def noisy(sigma: float, seed: int = 0) -> torch.Tensor:
    clean = pieces(seed)
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def restore(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return dct_wiener_filter(images, torch.full((len(images),), sigma))


def by_loops(images: np.ndarray, sigma: float) -> np.ndarray:
    """Reference implementation, cube by cube with the transforms of scipy."""

    def step(pilot: np.ndarray, edge: int, soft: bool) -> np.ndarray:
        before, after = -(-7 * edge // 8), 7 * edge // 8
        margins = [(0, 0), *[(before, after)] * 3]
        data, guide = (np.pad(v, margins, mode="reflect") for v in (images, pilot))
        values, weights = np.zeros_like(data), np.zeros_like(data)
        line = kaiser(edge, 2.0)
        window = np.einsum("i,j,k->ijk", line, line, line)
        quarter = edge // 4
        for corner in itertools.product(*(range(0, n - edge + 1, quarter) for n in data.shape[1:])):
            steps = {c // quarter % 2 for c in corner}
            if len(steps) > 1:  # not a point of the body-centred lattice
                continue
            part = (slice(None), *(slice(c, c + edge) for c in corner))
            a, b = (
                dctn(v[part], axes=(1, 2, 3), norm="ortho").reshape(3, -1) for v in (data, guide)
            )
            axes = np.linalg.eigh(b[:, 1:] @ b[:, 1:].T)[1].T
            a, b = axes @ a, axes @ b
            if soft:
                gain = b**2 / (b**2 + sigma**2)
            else:
                gain = (np.abs(b) > 3 * sigma).astype(float)
                gain[:, 0] = 1
            back = idctn(
                (axes.T @ (gain * a)).reshape(3, edge, edge, edge), axes=(1, 2, 3), norm="ortho"
            )
            weight = window / max((gain**2).sum(), 1)
            values[part] += weight * back
            weights[part] += weight
        inner = (slice(None), *(slice(before, -after),) * 3)
        return values[inner] / weights[inner]

    pilot = step(images, 4, soft=False)
    return (step(pilot, 4, soft=True) + step(pilot, 8, soft=True)) / 2


def test_agrees_with_the_reference_implementation():
    images = noisy(0.1).double()
    expected = by_loops(images[0].numpy(), 0.1)
    got = dct_wiener_filter(images.float(), torch.tensor([0.1]))[0]
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-4)


def test_is_better_than_the_best_gaussian():
    clean, images = pieces(), noisy(0.1)
    error = (restore(images, 0.1) - clean).square().mean()
    smoothed = [
        torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, w, w, w)))
        for w in np.arange(0.3, 2, 0.1)
    ]
    assert error < 0.5 * min((v - clean).square().mean() for v in smoothed)


def test_joint_filtering_is_better_than_single_contrasts():
    clean, images = pieces(), noisy(0.15)
    together = (restore(images, 0.15) - clean).square().mean()
    alone = torch.cat([restore(images[:, i : i + 1], 0.15) for i in range(3)], dim=1)
    assert together < 0.9 * (alone - clean).square().mean()


@pytest.mark.parametrize("images", [pieces(), torch.full((1, 3, 8, 8, 8), 0.7)])
def test_low_noise_leaves_the_images_unchanged(images):
    torch.testing.assert_close(restore(images, 1e-4), images, atol=1e-3, rtol=0)


def test_a_missing_contrast_stays_zero():
    images = noisy(0.1)
    images[:, 1] = 0
    restored = restore(images, 0.1)
    assert bool(restored.isfinite().all())
    assert restored[:, 1].abs().max() < 1e-5


def test_noise_levels_are_used_per_object():
    images = torch.cat([noisy(0.05), noisy(0.2, seed=1)])
    together = dct_wiener_filter(images, torch.tensor([0.05, 0.2]))
    alone = torch.cat([restore(images[:1], 0.05), restore(images[1:], 0.2)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8, 12), (3, 8, 8, 8), (1, 3, 4, 8, 8)])
def test_sides_that_are_no_multiple_of_the_cube_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        dct_wiener_filter(torch.zeros(shape), torch.ones(1))
