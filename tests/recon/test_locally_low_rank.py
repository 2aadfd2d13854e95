"""Blocks and their singular values against numpy and the definition of the projection."""

import itertools

import numpy as np
import pytest
import torch

from mri2qmap.recon.locally_low_rank import (
    Blocks,
    LocallyLowRank,
    nuclear_norm,
    project_spectral_ball,
)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 7, 9), (3, 4, 16), (1, 1, 1)])
@pytest.mark.parametrize(("edge", "offset"), [(4, 0), (4, 2), (4, 3), (1, 0), (3, 1), (8, 4)])
def test_blocks_hold_every_voxel_once_and_come_back(shape, edge, offset):
    blocks = Blocks(edge, offset)
    tsmi = random(3, *shape)
    matrices = blocks.cut(tsmi)
    assert matrices.shape[1:] == (3, edge**3)
    assert torch.equal(blocks.join(matrices, shape), tsmi)
    assert int((matrices != 0).sum()) == tsmi.numel()


def test_blocks_are_cubes_of_neighbours():
    z, y, x = torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij")
    tsmi = torch.complex(torch.stack([z, y, x]), torch.zeros(3, 8, 8, 8))
    (first, *_, last) = Blocks(4).cut(tsmi)
    assert first.real.amax() == 3
    assert last.real.amin() == 4
    corner, *_, middle, _, _, _ = Blocks(4, 2).cut(tsmi)[:5]
    assert corner.real.amax() == 1
    assert middle.shape == (3, 64)


def test_nuclear_norm_is_that_of_numpy_over_the_blocks():
    tsmi = random(3, 6, 4, 5)
    expected = 0.0
    for corner in itertools.product((0, 4), (0,), (0, 4)):
        block = tsmi[(slice(None), *(slice(c, c + 4) for c in corner))]
        expected += np.linalg.norm(block.reshape(3, -1).numpy(), "nuc")
    assert nuclear_norm(tsmi, Blocks(4)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("limit", [0.5, 4.0, 100.0])
def test_limited_singular_values_are_those_of_numpy(limit):
    matrices = random(7, 3, 20)
    u, values, v = np.linalg.svd(matrices.numpy(), full_matrices=False)
    expected = (u * np.minimum(values, limit)[:, None, :]) @ v
    np.testing.assert_allclose(project_spectral_ball(matrices, limit).numpy(), expected, atol=2e-5)


def test_matrices_of_less_rank_and_of_zeros():
    matrices = torch.zeros(3, 4, 9, dtype=torch.complex64)
    matrices[1] = random(4, 1) * random(1, 9, seed=1)
    matrices[2, 0, 0] = 3j
    limited = project_spectral_ball(matrices, 0.5)
    assert torch.equal(limited[0], matrices[0])
    norm = torch.linalg.matrix_norm(matrices[1])
    torch.testing.assert_close(limited[1], matrices[1] * (0.5 / norm), atol=1e-5, rtol=0)
    torch.testing.assert_close(limited[2], matrices[2] / 6, atol=1e-6, rtol=0)


def test_limiting_is_the_projection_onto_the_dual_ball():
    """The nearest point: what was taken away makes no acute angle with any way into the ball."""
    matrices = random(5, 3, 12)
    limited = project_spectral_ball(matrices, 2.0)
    assert float(torch.linalg.matrix_norm(limited, ord=2).max()) <= 2.0 * (1 + 1e-5)
    for seed in range(20):
        other = project_spectral_ball(3 * random(5, 3, 12, seed=seed + 1), 2.0)
        angle = ((matrices - limited).conj() * (other - limited)).real.sum((1, 2))
        assert float(angle.max()) < 1e-4


def test_one_partition_denoises_by_soft_thresholding():
    """argmin 1/2 ||X - Y||^2 + lambda sum_b ||X_b||_*: known in closed form."""
    noisy, weight = random(3, 6, 5, 4), 2.5
    blocks = Blocks(4)
    prior = LocallyLowRank(penalty=1.5, limit=weight / 1.5, partitions=(blocks,))
    volumes = noisy
    for _ in range(60):
        volumes = (noisy + prior.step(volumes).pull) / (1 + prior.penalty)
    u, values, v = np.linalg.svd(blocks.cut(noisy).numpy(), full_matrices=False)
    matrices = (u * np.maximum(values - weight, 0)[:, None, :]) @ v
    expected = blocks.join(torch.from_numpy(matrices.astype(np.complex64)), (6, 5, 4))
    torch.testing.assert_close(volumes, expected, atol=1e-4, rtol=0)
    assert int((values > weight).sum()) not in (0, values.size)


def test_two_partitions_denoise_with_the_mean_of_their_norms():
    """The minimum: every way leads up."""
    noisy, weight = random(2, 6, 6, 6), 2.0
    partitions = (Blocks(4), Blocks(4, 2))
    prior = LocallyLowRank(penalty=1.0, limit=weight, partitions=partitions)
    volumes = noisy
    for _ in range(300):
        volumes = (noisy + prior.step(volumes).pull) / (1 + prior.penalty)

    def objective(tsmi):
        norms = [nuclear_norm(tsmi, blocks) for blocks in partitions]
        return 0.5 * float((tsmi - noisy).abs().square().sum()) + weight * np.mean(norms)

    best = objective(volumes)
    assert best < 0.98 * objective(noisy)
    for seed in range(30):
        for size in (1e-2, 1e-1):
            assert objective(volumes + size * random(2, 6, 6, 6, seed=seed)) > best
    for share in (0.9, 0.99, 1.01, 1.1):
        assert objective(share * volumes) > best
