import itertools
import math

import pytest
import torch

from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.operators.nufft import Nufft
from mri2qmap.recon import coil_maps
from mri2qmap.recon.coil_compression import (
    MOST_DETERMINED_COILS,
    compression_matrix,
    noise_covariance,
    noise_statistics,
    whitening_matrix,
)
from mri2qmap.recon.coil_maps import calibration_images, resize_maps, walsh_maps
from mri2qmap.recon.gridding import density_compensation


def complex_noise(*shape, seed=0):
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def smooth_maps(n_coils, shape):
    """Sensitivities that fall off from points around the volume, with linear phase."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    maps = []
    for coil in range(n_coils):
        angle = 2 * math.pi * coil / n_coils
        distance = (x - 1.3 * math.cos(angle)) ** 2 + (y - 1.3 * math.sin(angle)) ** 2 + 0.3 * z**2
        maps.append(torch.exp(-distance / 2) * torch.exp(1j * (angle + 0.5 * x + 0.3 * coil * y)))
    return torch.stack(maps).to(torch.complex64)


def test_whitening_whitens():
    mixing = torch.eye(4, dtype=torch.complex64) + 0.4 * complex_noise(4, 4)
    noise = mixing @ complex_noise(4, 20_000, seed=1)
    white = whitening_matrix(noise_covariance(noise)) @ noise.to(torch.complex128)
    torch.testing.assert_close(
        noise_covariance(white), torch.eye(4, dtype=torch.complex128), atol=1e-9, rtol=0
    )
    # And the true covariance is what the estimate is near.
    expected = (mixing @ mixing.mH).to(torch.complex128)
    assert float((noise_covariance(noise) - expected).abs().max()) < 0.1


def test_a_dead_coil_is_refused():
    noise = complex_noise(3, 100)
    noise[1] = 0
    with pytest.raises(ValueError, match="not positive definite"):
        whitening_matrix(noise_covariance(noise))


def test_compression_keeps_what_is_there():
    low_rank = complex_noise(6, 2) @ complex_noise(2, 500, seed=1)
    matrix, energy = compression_matrix(low_rank @ low_rank.mH, energy_kept=0.999)
    assert matrix.shape == (2, 6)
    assert energy == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(
        matrix @ matrix.mH, torch.eye(2, dtype=torch.complex128), atol=1e-9, rtol=0
    )
    restored = matrix.mH @ (matrix @ low_rank.to(torch.complex128))
    torch.testing.assert_close(restored, low_rank.to(torch.complex128), atol=1e-4, rtol=1e-4)


def test_compression_to_a_number_of_coils_is_the_best_one():
    samples = complex_noise(5, 400) * torch.tensor([5.0, 3, 2, 1, 0.5])[:, None]
    matrix, energy = compression_matrix(samples @ samples.mH, virtual_coils=2)
    values = torch.linalg.svdvals(samples)
    best = float(values[:2].square().sum() / values.square().sum())
    assert energy == pytest.approx(best, rel=1e-5)
    assert float((matrix @ samples.to(torch.complex128)).abs().square().sum()) == pytest.approx(
        best * float(samples.abs().square().sum()), rel=1e-5
    )
    assert len(compression_matrix(samples @ samples.mH, virtual_coils=9)[0]) == 5


def test_the_energy_alone_asks_for_no_more_coils_than_are_planned():
    """Unless they are asked for."""
    equal = torch.eye(2 * MOST_DETERMINED_COILS)
    matrix, energy = compression_matrix(equal, energy_kept=1.0)
    assert len(matrix) == MOST_DETERMINED_COILS
    assert energy == pytest.approx(0.5)
    assert len(compression_matrix(equal, virtual_coils=20)[0]) == 20


def similarity(estimate, truth, where):
    """Correlation of the channel vectors of each voxel, 1 for equal ones up to phase."""
    unit = truth / torch.linalg.vector_norm(truth, dim=0)
    return (estimate.conj() * unit).sum(0).abs()[where]


def test_walsh_on_images_of_known_sensitivity():
    shape = (16, 16, 16)
    truth = smooth_maps(5, shape)
    contrasts = complex_noise(2, *shape, seed=3).abs() + 0.5
    images = truth[:, None] * contrasts + 0.02 * complex_noise(5, 2, *shape, seed=4)
    maps = walsh_maps(images, 3)
    rss = torch.linalg.vector_norm(maps, dim=0)
    torch.testing.assert_close(rss, torch.ones(shape), atol=1e-4, rtol=0)
    everywhere = torch.ones(shape, dtype=torch.bool)
    assert float(similarity(maps, truth, everywhere).min()) > 0.98
    assert float(maps[0].imag.abs().max()) < 1e-5  # the phase of the first coil is taken out
    # Phase differences between coils are those of the truth.
    unit = truth / torch.linalg.vector_norm(truth, dim=0)
    aligned = unit * torch.polar(torch.ones(shape), -unit[0].angle())
    assert float((maps - aligned).abs().mean()) < 0.05


@pytest.mark.parametrize("together", [1, 3000, 4000])
def test_blocks_of_walsh_maps_are_the_eigenvectors_of_the_mean_covariances(together, monkeypatch):
    monkeypatch.setattr(coil_maps, "_TOGETHER", together)
    monkeypatch.setattr(coil_maps, "BACKGROUND_SHARE", 0.0)
    images = complex_noise(5, 2, 6, 7, 8, seed=5)
    maps = walsh_maps(images, 3)
    products = torch.einsum("akzyx,bkzyx->zyxab", images, images.conj())
    for z, y, x in [(0, 0, 0), (2, 3, 4), (5, 6, 7), (1, 6, 0)]:
        total = torch.zeros(5, 5, dtype=torch.complex128)
        for step in itertools.product((-1, 0, 1), repeat=3):
            neighbour = zip((z, y, x), step, images.shape[2:], strict=True)
            near = [min(max(place + d, 0), n - 1) for place, d, n in neighbour]
            total += products[tuple(near)]
        _, vectors = torch.linalg.eigh(total)
        expected = vectors[:, -1] * vectors[0, -1].conj() / vectors[0, -1].abs()
        torch.testing.assert_close(
            maps[:, z, y, x].to(torch.complex128), expected, atol=1e-4, rtol=0
        )


def test_maps_go_on_smoothly_outside_the_object():
    shape = (16, 16, 16)
    truth = smooth_maps(4, shape)
    axes = [torch.linspace(-1, 1, n) for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    inside = (x**2 + y**2 + z**2) < 0.5
    images = (truth * inside)[:, None] + 1e-4 * complex_noise(4, 1, *shape)
    maps = walsh_maps(images, 3)
    steps = (maps[:, :, :, 1:] - maps[:, :, :, :-1]).abs()
    assert float(similarity(maps, truth, inside).min()) > 0.98
    assert float(steps.max()) < 0.5  # noise alone would jump by up to 2


def test_resized_maps_are_where_they_were():
    shape, fine = (12, 12, 12), (24, 20, 24)
    maps = smooth_maps(3, shape)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    large = resize_maps(maps, fine)
    assert large.shape == (3, *fine)
    centre = large[:, 12, 10, 12]
    torch.testing.assert_close(centre, maps[:, 6, 6, 6], atol=1e-3, rtol=0)
    torch.testing.assert_close(large[:, 6, 10, 16], maps[:, 3, 6, 8], atol=1e-3, rtol=0)
    rss = torch.linalg.vector_norm(large, dim=0)
    torch.testing.assert_close(rss, torch.ones(fine), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(12, 20, 17), (24, 20, 25), (5, 5, 5)])
def test_resized_maps_are_those_of_an_independent_interpolation(shape):
    maps = smooth_maps(3, (12, 11, 10))
    axes = []
    for n, m in zip(shape, maps.shape[1:], strict=True):
        index = (torch.arange(n) - n // 2) * (m / n) + m // 2
        axes.append(2 * index / (m - 1) - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)[None].expand(
        3, -1, -1, -1, -1
    )
    parts = torch.stack([maps.real, maps.imag], 1)
    fine = torch.nn.functional.grid_sample(parts, grid, padding_mode="border", align_corners=True)
    expected = torch.complex(fine[:, 0], fine[:, 1])
    expected = expected / torch.linalg.vector_norm(expected, dim=0)
    torch.testing.assert_close(resize_maps(maps, shape), expected, atol=1e-5, rtol=0)


def radial_samples(n_samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(n_samples, 3, generator=generator)
    radius = 0.499 * torch.rand(n_samples, 1, generator=generator)
    return radius * direction / direction.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("object_radius", "core_radius", "least"), [(0.77, 0.63, 0.98), (math.inf, math.inf, 0.96)]
)
def test_sensitivities_from_the_centre_of_k_space(object_radius, core_radius, least):
    """Of a ball, and of an object that fills the field of view: its ends must not mix."""
    shape, n_frames = (24, 24, 24), 40
    sequence = default_sequence(n_frames)
    basis, _ = subspace(sequence, 3)
    axes = [torch.linspace(-1, 1, n) for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt()
    truth = smooth_maps(4, shape)
    signal = (radius < object_radius).to(torch.complex64)
    trajectory = radial_samples(40_000)
    frames = torch.arange(40_000) % n_frames
    time_course = torch.cos(torch.linspace(0, 3, n_frames))
    kspace = Nufft(trajectory, shape).forward(truth * signal) * time_course[frames]
    kspace = kspace + 0.01 * float(kspace.abs().mean()) * complex_noise(4, 40_000)
    images = calibration_images(kspace, trajectory, frames, basis, shape, (12, 12, 12))
    maps = resize_maps(walsh_maps(images, 3), shape)
    assert float(similarity(maps, truth, radius < core_radius).min()) > least


def test_calibration_without_central_samples_is_refused():
    outside = torch.full((10, 3), 0.45)
    with pytest.raises(ValueError, match="no sample lies within the calibration region"):
        calibration_images(
            torch.ones(1, 10, dtype=torch.complex64),
            outside,
            torch.zeros(10, dtype=torch.int64),
            torch.ones(1, 1),
            (32, 32, 32),
            (8, 8, 8),
        )


def test_gridding_restores_an_image():
    shape = (16, 16, 16)
    trajectory = radial_samples(60_000)
    axes = [torch.linspace(-1, 1, n) for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    image = torch.exp(-4 * (x**2 + y**2 + (z - 0.2) ** 2)).to(torch.complex64)
    nufft = Nufft(trajectory, shape)
    weights = density_compensation(trajectory, shape)
    restored = nufft.adjoint(weights * nufft.forward(image))
    plain = nufft.adjoint(nufft.forward(image))
    plain = plain * (image.norm() / plain.norm())
    error = float((restored - image).norm() / image.norm())
    assert error < 0.1
    assert error < 0.2 * float((plain - image).norm() / image.norm())


def test_noise_does_not_count_as_signal():
    generator = torch.Generator().manual_seed(5)
    signal = 3 * complex_noise(6, 1) @ complex_noise(1, 20_000, seed=1)
    noise = torch.randn(signal.shape, dtype=torch.complex64, generator=generator)
    both = (signal + noise) @ (signal + noise).mH
    assert len(compression_matrix(both, energy_kept=0.99)[0]) > 1
    assert len(compression_matrix(both, energy_kept=0.99, noise_energy=20_000)[0]) == 1
    assert len(compression_matrix(noise @ noise.mH, energy_kept=0.99, noise_energy=1e9)[0]) == 1


@pytest.mark.parametrize(
    ("covariance", "largest", "mean", "ratio"),
    [
        ([[4.0]], 0, 0, 1),
        ([[1, 0], [0, 9]], 0, 0, 3),
        ([[1, 1.5j], [-1.5j, 9]], 0.5, 0.5, 3),
        ([[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1]], 0.6, 0.2, 1),
    ],
)
def test_noise_statistics(covariance, largest, mean, ratio):
    found = noise_statistics(torch.tensor(covariance, dtype=torch.complex128))
    assert found["noise_correlation_largest"] == pytest.approx(largest)
    assert found["noise_correlation_mean"] == pytest.approx(mean)
    assert found["noise_deviation_ratio"] == pytest.approx(ratio)


def test_a_coil_without_noise_has_no_statistics():
    assert noise_statistics(torch.diag(torch.tensor([1.0, 0.0]))) == {}
