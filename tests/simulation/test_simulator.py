import dataclasses

import numpy as np
import pytest
import torch
from helpers.phantoms import write_labels

from mri2qmap.anatomy.tissues import GREY_MATTER, WHITE_MATTER
from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.simulation.coils import noise_covariance
from mri2qmap.simulation.components import tissue_signals
from mri2qmap.simulation.simulator import (
    NoiseModel,
    Orientation,
    SimulationSettings,
    object_phase,
    sample,
    sample_noise_scale,
    simulate,
)
from mri2qmap.simulation.trajectory import FULL_DENSITY, plan_sampling, spiral_projections

SEQUENCE = default_sequence(40)
SHAPE = (12, 16, 14)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return str(write_labels(tmp_path_factory.mktemp("anatomy") / "labels.nii.gz", "LIA"))


@pytest.fixture(scope="module")
def settings(labels):
    return SimulationSettings(
        anatomy=labels,
        region=Region.BRAIN,
        matrix=(16, 16, 16),
        field_of_view=(0.24, 0.24, 0.24),
        coils=1,
        acceleration=2,
        noise=0.0,
    )


@pytest.fixture(scope="module")
def trajectory():
    return spiral_projections(plan_sampling(SHAPE, 40, 2), SHAPE)


def test_point_source_has_an_analytic_phase(trajectory):
    images = np.zeros((1, *SHAPE), np.complex64)
    images[0, 3, 12, 9] = 2 - 1j
    signals = np.linspace(-1, 2, 40, dtype=np.float32)[None]
    kspace = sample(images, signals, np.ones((1, *SHAPE), np.complex64), trajectory)

    position = np.array([9 - 7, 12 - 8, 3 - 6])  # x, y, z from voxel n // 2
    phase = np.exp(-2j * np.pi * trajectory.astype(float) @ position)
    expected = (2 - 1j) * signals[0][None, :, None] * phase / np.sqrt(np.prod(SHAPE))
    np.testing.assert_allclose(kspace[:, :, 0], expected, atol=2e-5)


def test_each_coil_and_tissue_is_summed(trajectory):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, *SHAPE)).astype(np.complex64)
    maps = (rng.standard_normal((3, *SHAPE)) + 1j * rng.standard_normal((3, *SHAPE))).astype(
        np.complex64
    )
    signals = rng.standard_normal((2, 40)).astype(np.float32)
    kspace = sample(images, signals, maps, trajectory)
    # The first sample of each arm is at the centre: the sum of the image.
    sums = np.einsum("tf,tzyx,czyx->fc", signals, images, maps) / np.sqrt(np.prod(SHAPE))
    np.testing.assert_allclose(kspace[0, :, :, 0], sums, rtol=1e-4, atol=1e-3)


def test_signal_is_not_confined_to_the_subspace(settings):
    found = simulate(settings, SEQUENCE)
    images = found.truth.fractions * object_phase(settings.matrix, settings.phase)
    signals = np.stack(
        [
            tissue.proton_density
            * fisp_signal(torch.tensor([tissue.t1]), torch.tensor([tissue.t2]), SEQUENCE)[0].numpy()
            for tissue in found.truth.tissues
        ]
    )
    centre = np.einsum("tf,tzyx->f", signals, images) / 64
    np.testing.assert_allclose(found.scan.kspace[0, :, 0, 0], centre, rtol=1e-4, atol=1e-3)
    # The true TSMI is the same in the subspace.
    basis = subspace(SEQUENCE, 5)[0].numpy()
    np.testing.assert_allclose(
        found.tsmi.sum((1, 2, 3)) / 64, basis.T @ centre, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(tissue_signals(found.truth.tissues, SEQUENCE), signals, rtol=1e-5)


def test_density_of_a_scan(settings):
    kspace = simulate(settings, SEQUENCE).scan.kspace
    assert kspace.size / 16**3 == pytest.approx(1.9, rel=0.02)


def test_phase_is_smooth_and_bounded():
    phase = object_phase((16, 16, 16), 0.8)
    assert np.abs(np.angle(phase)).max() == pytest.approx(0.8, abs=1e-5)
    assert max(np.abs(np.diff(phase, axis=a)).max() for a in range(3)) < 0.25
    np.testing.assert_array_equal(object_phase((16, 16, 16), 0.0), 1)


def test_tsmi_noise_has_the_requested_level(settings):
    quiet = simulate(settings, SEQUENCE)
    noisy = simulate(dataclasses.replace(settings, noise=0.25), SEQUENCE)
    assert len(noisy.scan.noise) == 0
    inside = quiet.truth.proton_density() > 0.5
    mean = float(np.mean([np.abs(c[inside]).mean() for c in quiet.tsmi]))
    assert noisy.noise_std == pytest.approx(0.25 * mean, rel=1e-5)
    # The centre of k-space is the sum of the noise images, multiplied by the basis.
    difference = (noisy.scan.kspace - quiet.scan.kspace)[0, :, 0, 0]
    basis = subspace(SEQUENCE, 5)[0].numpy()
    coefficients = basis.T @ difference
    np.testing.assert_allclose(basis @ coefficients, difference, atol=1e-4)
    # Elsewhere too: five coefficients of noise in each sample, so variance s^2 sum_k Phi^2.
    every = (noisy.scan.kspace - quiet.scan.kspace)[:, :, 0]
    expected = noisy.noise_std**2 * (basis**2).sum(1)
    measured = (np.abs(every) ** 2).mean(axis=(0, 2))
    assert measured.sum() == pytest.approx(expected.sum(), rel=0.1)


def test_receiver_noise_has_its_covariance(settings):
    many = dataclasses.replace(settings, coils=3)
    quiet = simulate(many, SEQUENCE)
    noisy = simulate(dataclasses.replace(many, noise=0.25), SEQUENCE)
    covariance = noisy.noise_std**2 * noise_covariance(3, np.random.default_rng(many.seed))
    difference = (noisy.scan.kspace - quiet.scan.kspace).transpose(2, 0, 1, 3).reshape(3, -1)
    scans = noisy.scan.noise.transpose(1, 0, 2).reshape(3, -1)
    assert scans.shape[1] >= 8192
    for noise in (difference, scans):
        measured = noise @ noise.conj().T / noise.shape[1]
        scale = noisy.noise_std**2
        np.testing.assert_allclose(measured / scale, covariance / scale, atol=0.05)
        # Circular: real and imaginary parts are uncorrelated.
        pseudo = noise @ noise.T / noise.shape[1]
        np.testing.assert_allclose(pseudo / scale, 0, atol=0.05)


def test_receiver_noise_gives_its_level_in_a_full_scan():
    """Least squares of white noise with 3.8 samples per voxel and an array of sensitivity 0.6."""
    frames, voxels, sensitivity = 40, 50, 0.6
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((frames, 5)))[0]
    field = np.full((voxels, 1, 1), sensitivity, np.float32)
    std = sample_noise_scale(field, np.ones_like(field), frames)
    # With samples spread evenly over frames and k-space, A^H A is diagonal.
    information = sensitivity**2 * (FULL_DENSITY / frames) * (basis.T @ basis)
    variance = np.linalg.inv(information) * std**2
    np.testing.assert_allclose(variance, np.eye(5), atol=1e-6)


@pytest.mark.parametrize(
    ("coils", "model", "expected"),
    [
        (1, NoiseModel.AUTO, NoiseModel.TSMI),
        (2, NoiseModel.AUTO, NoiseModel.RECEIVER),
        (1, NoiseModel.RECEIVER, NoiseModel.RECEIVER),
        (4, NoiseModel.TSMI, NoiseModel.TSMI),
    ],
)
def test_noise_models(settings, coils, model, expected):
    chosen = dataclasses.replace(settings, coils=coils, noise_model=model, noise=0.1)
    assert chosen.effective_noise_model == expected
    scan = simulate(chosen, SEQUENCE).scan
    assert scan.kspace.shape[2] == coils
    assert (len(scan.noise) > 0) == (expected == NoiseModel.RECEIVER)


def test_the_seed_determines_the_noise(settings):
    noisy = dataclasses.replace(settings, noise=0.2)
    first, again = (simulate(noisy, SEQUENCE).scan.kspace for _ in range(2))
    other = simulate(dataclasses.replace(noisy, seed=1), SEQUENCE).scan.kspace
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 1e-3


@pytest.mark.parametrize("orientation", list(Orientation))
@pytest.mark.parametrize("oblique", [(0.0, 0.0, 0.0), (0.2, -0.3, 0.4)])
def test_directions_are_a_right_handed_frame(settings, orientation, oblique):
    directions = dataclasses.replace(
        settings, orientation=orientation, oblique=oblique
    ).directions()
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(directions) == pytest.approx(1)


def test_slices_of_a_sagittal_scan_go_from_left_to_right(settings):
    turned = dataclasses.replace(settings, orientation=Orientation.SAGITTAL)
    truth = simulate(turned, SEQUENCE).truth
    # z increases to the right, y to the feet, x to posterior; grey matter is on the right.
    grey = truth.fractions[truth.tissues.index(GREY_MATTER)]
    white = truth.fractions[truth.tissues.index(WHITE_MATTER)]
    assert truth.geometry.slice_dir == (-1.0, 0.0, 0.0)
    z = np.arange(16)[:, None, None]
    assert (grey * z).sum() / grey.sum() > (white * z).sum() / white.sum() + 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"matrix": (2, 16, 16)}, "matrix"),
        ({"field_of_view": (240.0, 240.0, 240.0)}, "metres"),
        ({"coils": 0}, "coils"),
        ({"acceleration": 0.0}, "acceleration"),
        ({"acceleration": float("nan")}, "acceleration"),
        ({"groups": 0}, "groups"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"phase": float("inf")}, "phase"),
        ({"phase": 60.0}, "radians, not degrees"),
        ({"density_exponent": 0.3}, "density exponent"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings_are_refused(settings, change, expected):
    with pytest.raises(Mri2QmapError, match=expected):
        dataclasses.replace(settings, **change)
