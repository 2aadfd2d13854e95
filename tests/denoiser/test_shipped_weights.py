"""Accuracy of the weights in models/ on a brain not used for training (ICBM)."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import Tensor

from mri2qmap.denoiser.checkpoint import Task, load_denoiser
from mri2qmap.denoiser.network import CONTRASTS, ConditionalResidualUNet
from mri2qmap.denoiser.tsmi_images import TsmiUnits
from mri2qmap.denoiser.tsmi_restoration import (
    check_coefficients,
    load_tsmi_network,
    restore_images,
)
from mri2qmap.denoiser.volume import denoise_volumes, intensity_scale
from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import default_sequence

pytestmark = pytest.mark.slow

SIGMA = 0.1
TISSUES = ((0.75, 0.07, 0.75), (1.25, 0.09, 0.85), (4.0, 1.99, 1.0))
"""T1 [s], T2 [s], PD of white matter, grey matter and fluid."""


@functools.cache
def network() -> ConditionalResidualUNet:
    return load_denoiser("small").network


def psnr(images: Tensor, truth: Tensor) -> np.ndarray:
    """PSNR [dB] of each image for a peak of 1, over the voxels of the object."""
    errors = [(a - b)[b > 0.02].square().mean() for a, b in zip(images, truth, strict=True)]
    return -10 * np.log10(errors)


def noisy(images: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return images + sigma * noise


def denoise(images: Tensor, sigma: float, contrasts=CONTRASTS, **arguments) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return denoise_volumes(
        network(), images, sigma, contrasts, generator=generator, scale=torch.ones(3), **arguments
    )


@pytest.fixture(scope="module")
def brain(brain_images) -> Tensor:
    """(3, 24, 24, 24) part of the brain with ventricle and cortex."""
    return brain_images[:, 4:28, 16:40, 4:28].contiguous()


@pytest.fixture(scope="module")
def restored_psnr(brain) -> np.ndarray:
    return psnr(denoise(noisy(brain, SIGMA), SIGMA), brain)


def test_better_than_the_best_gaussian_filter(brain, restored_psnr):
    degraded = noisy(brain, SIGMA)
    widths = np.arange(0.3, 1.3, 0.1)
    filtered = [
        psnr(torch.from_numpy(gaussian_filter(degraded.numpy(), (0, w, w, w))), brain)
        for w in widths
    ]
    gain = restored_psnr - np.max(filtered, axis=0)
    assert np.all(gain > 3)
    assert np.mean(gain) > 4


def test_small_patches_reduce_the_psnr_slightly(brain, restored_psnr):
    patched = psnr(denoise(noisy(brain, SIGMA), SIGMA, patch=16), brain)
    assert np.all(patched > restored_psnr - 0.2)


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_wrong_noise_level_reduces_the_psnr(brain, restored_psnr, factor):
    wrong = psnr(denoise(noisy(brain, SIGMA), factor * SIGMA), brain)
    assert np.all(wrong < restored_psnr - 1.4)


@pytest.mark.parametrize("turn", [1, 2])
def test_a_wrong_contrast_reduces_the_psnr(brain, restored_psnr, turn):
    # Most of the image is that of the pre-filter, which does not depend on the contrast.
    degraded = noisy(brain, SIGMA)
    wrong = psnr(denoise(degraded, SIGMA, CONTRASTS[turn:] + CONTRASTS[:turn]), brain)
    assert np.all(wrong < restored_psnr - 0.15)
    assert np.mean(wrong) < np.mean(restored_psnr) - 0.6


def test_wrong_contrasts_reduce_the_psnr_at_high_noise_too(brain):
    degraded = noisy(brain, 0.2)
    right, *wrong = (
        psnr(denoise(degraded, 0.2, CONTRASTS[turn:] + CONTRASTS[:turn]), brain)
        for turn in range(3)
    )
    assert np.all(np.array(wrong) < right - 0.05)
    assert np.all(np.mean(wrong, axis=1) < np.mean(right) - 0.3)


def shepp_logan() -> Tensor:
    """(3, 24, 24, 24) the modified Shepp-Logan phantom, constant along z, intensity scale 1."""
    plane = resize(shepp_logan_phantom(), (24, 24), anti_aliasing=True).astype(np.float32)
    image = torch.from_numpy(plane).expand(24, 24, 24)
    # Brain and skull of the three contrasts.
    return torch.stack([image / image.max(), 1 - (1 - image) ** 2, image.sqrt()])


def constant() -> Tensor:
    """(3, 24, 24, 24) three constants."""
    return torch.tensor([0.9, 0.6, 0.3])[:, None, None, None].expand(3, 24, 24, 24).clone()


@pytest.mark.parametrize(
    "made", [None, shepp_logan, constant], ids=["brain", "phantom", "constant"]
)
def test_near_identity_at_the_lowest_level(brain, made):
    images = brain if made is None else made()
    restored = denoise(images, network().config.sigma_min)
    change = (restored - images).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert float(change.max()) < 0.01


def test_low_noise_is_not_amplified(brain):
    lowest = network().config.sigma_min
    degraded = noisy(brain, lowest)
    restored = denoise(degraded, lowest)
    assert np.all(psnr(restored, brain) > psnr(degraded, brain) - 0.05)


@pytest.mark.parametrize("synthesised", [pytest.param(False, marks=pytest.mark.slow), True])
def test_shift_by_whole_patches_shifts_the_output(brain_images, synthesised):
    # The border, where the pre-filtered estimates of the volume end, is zero.
    inside = (slice(None), *(slice(24, 40),) * 3)
    images = torch.zeros(3, 64, 64, 64)
    images[inside] = noisy(brain_images, SIGMA)[inside]
    shifts = (16, -16, 16)
    moved = denoise(images.roll(shifts, (1, 2, 3)), SIGMA, patch=16, synthesised=synthesised)
    expected = denoise(images, SIGMA, patch=16, synthesised=synthesised).roll(shifts, (1, 2, 3))
    # Rounding may change a coefficient's thresholding in the pre-filter.
    torch.testing.assert_close(moved, expected, atol=1e-5 if synthesised else 5e-4, rtol=1e-5)
    assert float((moved - expected).abs().median()) < 1e-6


def test_scale_of_a_noisy_image_is_that_of_the_clean_one(brain):
    clean = intensity_scale(brain)
    for sigma in (0.05, 0.2):
        ratio = intensity_scale(noisy(brain, sigma)) / clean
        torch.testing.assert_close(ratio, torch.ones(3), atol=0.12, rtol=0)


def test_weights_contain_their_training_data():
    info = load_denoiser("small").info
    subjects = info["training"]["subjects"]
    assert {"training_seg_18", "training_seg_19"} == set(subjects["held_out"])
    assert not set(subjects["held_out"]) & set(subjects["training"] + subjects["validation"])
    assert info["step"] == info["training"]["optimisation"]["steps"]


@pytest.mark.parametrize(
    ("name", "task"), [("arnet", Task.TSMI_ARTEFACTS), ("mrf_pnp", Task.TSMI_NOISE)]
)
def test_weights_for_tsmis_contain_their_training_data(name, task):
    denoiser = load_denoiser(name, task=task)
    load_tsmi_network(name, task, default_sequence(), torch.device("cpu"))
    check_coefficients(denoiser.network, 5)
    subjects = denoiser.info["training"]["subjects"]
    assert {"training_seg_18", "training_seg_19"} == set(subjects["held_out"])
    assert not set(subjects["held_out"]) & set(subjects["training"] + subjects["validation"])
    assert denoiser.info["step"] == denoiser.info["training"]["optimisation"]["steps"]


def test_noise_is_removed_from_tsmis():
    """Nested ellipsoids of white matter, grey matter and fluid, at the noise levels of use."""
    t1, t2, density = (torch.tensor(values) for values in zip(*TISSUES, strict=True))
    basis, _ = subspace(default_sequence(), 5)
    fingerprints = density[:, None] * (fisp_signal(t1, t2, default_sequence()) @ basis)
    ramp = torch.linspace(-1, 1, 32)
    radius = (ramp[:, None, None] ** 2 + (1.2 * ramp[:, None]) ** 2 + (1.1 * ramp) ** 2).sqrt()
    tissue = (radius > 0.55).long() + (radius > 0.75)
    tsmi = fingerprints.T[:, tissue] * (radius < 0.9) * torch.exp(0.5j * ramp)
    units = TsmiUnits.of(tsmi)
    truth = units.images(tsmi)
    network = load_denoiser("mrf_pnp", task=Task.TSMI_NOISE).network
    for sigma in (0.02, 0.05, 0.1):
        given = noisy(truth, sigma)
        restored = restore_images(network, given, sigma, flip_average=False)
        gain = 10 * torch.log10(
            (given - truth).square().mean() / (restored - truth).square().mean()
        )
        assert float(gain) > 6
