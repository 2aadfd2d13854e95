import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.studies.classical_denoisers import (
    CLASSICAL,
    PREFILTER,
    load_classical,
    of_filter,
)

CONTRASTS = list(Contrast)


def blocks(n=12):
    """Three images of flat blocks (3, n, n, n)."""
    image = torch.zeros(n, n, n)
    image[2:10, 2:10, 2:10] = 0.6
    image[5:8, 2:10, 4:8] = 1.0
    return torch.stack([image, 0.8 * image, 1.2 * image])


def noisy_blocks(sigma):
    noise = torch.randn(3, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    return blocks() + sigma * noise


def error(images):
    return float((images - blocks()).square().mean().sqrt())


@pytest.mark.parametrize("name", CLASSICAL)
def test_denoises_each_image_by_itself(name):
    if name == "bm4d":
        pytest.importorskip("bm4d", reason="the extra [bm4d] is not installed")
    (denoiser,), left_out = load_classical([name])
    assert not left_out
    noisy = noisy_blocks(0.1)
    results = [denoiser.restore(noisy, CONTRASTS, 0.1, setting) for setting in denoiser.settings]
    errors = [error(result) for result in results]
    assert min(errors) < 0.8 * error(noisy)
    best = denoiser.settings[int(np.argmin(errors))]
    alone = denoiser.restore(noisy[1:2], CONTRASTS[1:2], 0.1, best)
    torch.testing.assert_close(alone[0], results[int(np.argmin(errors))][1])


@pytest.mark.slow
def test_the_prefilter_denoises_all_images_together_and_takes_sides_of_any_length():
    (denoiser,), left_out = load_classical([PREFILTER])
    assert not left_out
    noisy = noisy_blocks(0.1)
    restored = denoiser.restore(noisy, CONTRASTS, 0.1, 0.0)
    assert restored.shape == noisy.shape
    assert error(restored) < 0.5 * error(noisy)
    alone = [denoiser.restore(noisy[i : i + 1], CONTRASTS[i : i + 1], 0.1, 0.0) for i in range(3)]
    alone = torch.cat(alone)
    assert error(restored) < 0.9 * error(alone)
    as_prior = denoiser.prior(lambda contrast, sigma: 0.0)(40 * noisy, 0.1)
    assert error(as_prior / 40) < 0.5 * error(noisy)


@pytest.mark.usefixtures("near_search")
def test_the_prefilter_has_zeros_for_missing_contrasts_as_the_networks_do():
    (denoiser,), _ = load_classical([PREFILTER])
    noisy = noisy_blocks(0.1)[:, :8, :8, :8]
    _, expected = classical_prefilter(
        torch.stack([torch.zeros(8, 8, 8), *noisy[1:]])[None], torch.tensor([0.1])
    )
    restored = denoiser.restore(noisy[1:], CONTRASTS[1:], 0.1, 0.0)
    torch.testing.assert_close(restored, expected[0, 1:])


def test_gaussian_is_that_of_scipy():
    (denoiser,), _ = load_classical(["gaussian"])
    images = noisy_blocks(0.1)
    expected = gaussian_filter(images[2].numpy(), 0.9)
    np.testing.assert_array_equal(
        denoiser.restore(images, CONTRASTS, 0.1, 0.9)[2].numpy(), expected
    )


def test_nlm_strength_is_relative_to_the_noise():
    (denoiser,), _ = load_classical(["nlm"])
    images = noisy_blocks(0.1)
    weak, strong = (denoiser.restore(images, CONTRASTS, sigma, 0.6) for sigma in (0.01, 0.1))
    assert error(weak) > 0.9 * error(images) > 1.2 * error(strong)


def test_prior_scales_images_and_chooses_a_setting_for_each():
    seen = []

    def keep(image, sigma, setting):
        seen.append((float(intensity_scale(torch.from_numpy(image)[None])[0]), sigma, setting))
        return image

    images = 40 * blocks()
    prior = of_filter("double", "1", keep).prior(
        lambda contrast, sigma: CONTRASTS.index(contrast) + sigma
    )
    torch.testing.assert_close(prior(images, 0.1), images)
    scales, sigmas, settings = zip(*seen, strict=True)
    assert scales == pytest.approx((1, 1, 1))
    assert sigmas == (0.1, 0.1, 0.1)
    assert settings == pytest.approx((0.1, 1.1, 2.1))


def test_a_missing_bm4d_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm4d", None)
    found, left_out = load_classical(["gaussian", "bm4d", "gaussian"])
    assert [denoiser.name for denoiser in found] == ["gaussian"]
    assert len(left_out) == 1
    assert "mri2qmap[bm4d]" in left_out[0]
    assert "non-commercial" in left_out[0]


def test_unknown_name():
    with pytest.raises(Mri2QmapError, match=r"'median'.*gaussian, nlm, bm4d"):
        load_classical(["gaussian", "median"])
