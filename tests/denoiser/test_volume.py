from __future__ import annotations

import pytest
import torch

from mri2qmap.denoiser import volume
from mri2qmap.denoiser.network import CONTRASTS, ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.volume import (
    _flip_average,
    admm_denoiser,
    denoise_volumes,
    intensity_scale,
    reflect_pad,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class VoxelwiseNetwork(ConditionalResidualUNet):
    """Output = input * (1 + class) + sigma: local, depends on class and noise level."""

    def __init__(self, joint: bool = False) -> None:
        config = DenoiserConfig(channels=(4, 4, 4), blocks=(1, 1, 1), embedding=4, joint=joint)
        super().__init__(config)
        self.sizes: list[tuple[int, ...]] = []
        self.present: list[list[float]] = []
        self.synthesised: set[float] = set()

    def forward(self, noisy, sigma, present, synthesised):
        self.synthesised.update(synthesised.tolist())
        self.sizes.append(tuple(noisy.shape))
        self.present.extend(present.tolist())
        factors = torch.arange(1.0, 4) * present
        if not self.config.joint:
            factors = factors.sum(1, keepdim=True)
        return noisy * factors[..., None, None, None] + sigma[:, None, None, None, None]


@pytest.mark.parametrize(
    "shape", [(64, 64, 64), (65, 20, 33), (100, 8, 7), (1, 2, 3), (24, 40, 16)]
)
@pytest.mark.parametrize("patch", [16, 30, 64])
@pytest.mark.parametrize("joint", [False, True])
def test_every_voxel_is_processed_once_and_returned_to_its_place(shape, patch, joint):
    images = torch.rand(3, *shape, generator=generator(3))
    scale = torch.tensor([0.5, 2.0, 3.0])
    network = VoxelwiseNetwork(joint)
    out = denoise_volumes(
        network, images, 0.5, ("PDw", "T1w", "T2w"), patch=patch, generator=generator(), scale=scale
    )
    expected = images * torch.tensor([3.0, 1, 2])[:, None, None, None]
    expected = expected + 0.5 * scale[:, None, None, None]
    torch.testing.assert_close(out, expected)
    for size in network.sizes:
        assert size[1] == network.config.images_per_input
        assert max(size[2:]) <= patch
        assert all(side % 8 == 0 for side in size[2:])


@pytest.mark.parametrize(
    ("line", "side", "expected"),
    [
        ([1, 2, 3, 4], 6, [1, 2, 3, 4, 3, 2]),
        ([1, 2, 3], 8, [1, 2, 3, 2, 1, 2, 3, 2]),
        ([1, 2], 5, [1, 2, 1, 2, 1]),
        ([1], 3, [1, 1, 1]),
        ([1, 2, 3], 3, [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_are_padded_by_reflection(line, side, expected, axis):
    shape, sides = [1, 1, 1], [1, 1, 1]
    shape[axis], sides[axis] = -1, side
    longer = reflect_pad(torch.tensor(line).reshape(1, *shape), sides)
    assert longer.shape[1 + axis] == side
    assert longer.flatten().tolist() == expected


def test_volumes_that_fit_are_not_padded():
    network = VoxelwiseNetwork()
    denoise_volumes(network, torch.rand(3, 64, 64, 64), 0.1, CONTRASTS)
    assert network.sizes == 8 * [(3, 1, 64, 64, 64)]  # one call for each flip


def test_a_joint_network_receives_the_contrasts_present():
    network = VoxelwiseNetwork(joint=True)
    images = torch.rand(2, 16, 16, 16, generator=generator(2))
    out = denoise_volumes(network, images, 0.5, ("PDw", "T1w"), scale=torch.ones(2))
    assert network.present == 8 * [[1, 0, 1]]
    torch.testing.assert_close(out, images * torch.tensor([3.0, 1])[:, None, None, None] + 0.5)


@pytest.mark.parametrize("synthesised", [False, True])
def test_the_network_receives_the_kind_of_images(synthesised):
    network = VoxelwiseNetwork()
    images = torch.rand(3, 16, 16, 16, generator=generator(2))
    denoise_volumes(network, images, 0.5, CONTRASTS, synthesised=synthesised)
    assert network.synthesised == {float(synthesised)}


def test_patches_are_processed_in_batches_if_memory_is_limited(monkeypatch, tiny_network):
    images = torch.rand(3, 32, 32, 32, generator=generator(1))
    whole = denoise_volumes(tiny_network, images, 0.1, CONTRASTS, patch=16, generator=generator())
    monkeypatch.setattr(volume, "_CPU_BYTES", 1)
    parts = denoise_volumes(tiny_network, images, 0.1, CONTRASTS, patch=16, generator=generator())
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


def test_shift_by_whole_patches_commutes(tiny_network):
    images = torch.rand(3, 32, 16, 32, generator=generator(1))
    arguments = {"patch": 16, "scale": torch.ones(3)}
    plain = denoise_volumes(
        tiny_network, images, 0.2, CONTRASTS, generator=generator(5), **arguments
    )
    rolled = denoise_volumes(
        tiny_network,
        images.roll((16, 16), (1, 3)),
        0.2,
        CONTRASTS,
        generator=generator(5),
        **arguments,
    )
    torch.testing.assert_close(rolled.roll((-16, -16), (1, 3)), plain, atol=1e-5, rtol=1e-5)


def test_seams_move_with_the_random_offset(tiny_network):
    images = torch.rand(3, 32, 32, 32, generator=generator(1))
    outs = [
        denoise_volumes(tiny_network, images, 0.5, CONTRASTS, patch=16, generator=generator(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2], atol=1e-4)


def test_the_result_scales_with_the_intensity(tiny_network):
    images = torch.rand(3, 16, 16, 16, generator=generator(1))
    gains = torch.tensor([0.01, 1.0, 300.0])[:, None, None, None]
    plain = denoise_volumes(tiny_network, images, 0.1, CONTRASTS, generator=generator())
    scaled = denoise_volumes(tiny_network, images * gains, 0.1, CONTRASTS, generator=generator())
    torch.testing.assert_close(scaled / gains, plain, atol=1e-4, rtol=1e-4)


def test_sigma_is_not_rounded_within_the_range_of_the_network():
    images = torch.zeros(3, 16, 16, 16)
    network = VoxelwiseNetwork()
    for sigma, used in ((0.0123, 0.0123), (0.001, 0.005), (9.0, 0.5)):
        plus = denoise_volumes(network, images, sigma, CONTRASTS, scale=torch.ones(3))
        torch.testing.assert_close(plus, torch.full_like(images, used))


def ball(side: int = 40, radius: float = 16) -> torch.Tensor:
    axis = torch.arange(side) - (side - 1) / 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return (distance < radius).float()


def test_intensity_scale_of_a_known_image():
    image = ball() * torch.linspace(0.5, 1.0, 40)
    expected = torch.quantile(image[ball() > 0], 0.995)
    assert float(intensity_scale(image[None])) == pytest.approx(float(expected), rel=0.02)


def test_intensity_scale_ignores_surrounding_air():
    tight = ball(40)[None]
    wide = torch.nn.functional.pad(tight, (20,) * 6)
    assert float(intensity_scale(wide)) == pytest.approx(float(intensity_scale(tight)), rel=0.01)


def test_intensity_scale_is_robust_to_outliers_and_noise():
    clean = ball()[None] * 0.8
    scale = float(intensity_scale(clean))
    outliers = clean.clone()
    where = torch.randperm(outliers.numel(), generator=generator())[:1900]  # 3 %
    outliers.view(-1)[where] = 30.0
    assert float(intensity_scale(outliers)) == pytest.approx(scale, rel=0.01)
    assert float(torch.quantile(outliers[outliers > 0.08], 0.98)) == 30.0
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator())
    assert float(intensity_scale(noisy)) == pytest.approx(scale, rel=0.08)


def test_intensity_scale_follows_gain_and_handles_empty_images():
    images = torch.stack([ball(), 7 * ball(), torch.zeros(40, 40, 40), -ball()])
    scales = intensity_scale(images)
    torch.testing.assert_close(scales[1], 7 * scales[0])
    assert scales[2:].tolist() == [1.0, 1.0]


GOOD = torch.rand(3, 8, 8, 8, generator=generator())
BROKEN = GOOD.clone()
BROKEN[1, 2, 3, 4] = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": GOOD[0]}, "expected real"),
        ({"images": GOOD[:2]}, "expected real"),
        ({"images": GOOD.to(torch.complex64)}, "expected real"),
        ({"images": BROKEN}, "not finite"),
        ({"sigma": 0.0}, "sigma must be"),
        ({"sigma": float("nan")}, "sigma must be"),
        ({"contrasts": ("T1w", "T2w", "FLAIR")}, "FLAIR"),
        ({"contrasts": ("T1w", "T2w", "T1w")}, "may appear only once"),
        ({"patch": 2}, "at least 4"),
        ({"precision": torch.float64}, "precision"),
        ({"scale": torch.tensor([1.0, 0.0, 1.0])}, "positive numbers"),
        ({"scale": torch.ones(2)}, "positive numbers"),
    ],
)
def test_bad_input(tiny_network, changes, message):
    arguments = {"images": GOOD, "sigma": 0.1, "contrasts": CONTRASTS, **changes}
    with pytest.raises(ValueError, match=message):
        denoise_volumes(tiny_network, **arguments)


def test_white_noise_is_denoised_with_flip_averaging(tiny_network):
    images = torch.rand(2, 1, 16, 16, 16, generator=generator(1))
    rest = torch.full((2,), 0.1), torch.eye(3)[:2], torch.zeros(2)
    with torch.no_grad():
        plain = tiny_network(images, *rest)
        restored = _flip_average(tiny_network, images, *rest)
        flipped = _flip_average(tiny_network, images.flip(2, 4), *rest)
    torch.testing.assert_close(flipped, restored.flip(2, 4), atol=1e-6, rtol=0)
    assert float((restored - plain).norm()) > 1e-4 * float(plain.norm())


def test_synthesised_images_are_flip_averaged_on_request_only(tiny_network):
    images = torch.rand(3, 16, 16, 16, generator=generator(2))
    plain, averaged = (
        admm_denoiser(tiny_network, torch.Generator().manual_seed(0), flip_average=flip_average)(
            images, 0.1
        )
        for flip_average in (False, True)
    )
    arguments = {"synthesised": True, "generator": generator(0)}
    expected = denoise_volumes(tiny_network, images, 0.1, CONTRASTS, flip_average=True, **arguments)
    torch.testing.assert_close(averaged, expected)
    assert float((averaged - plain).norm()) > 1e-4 * float(plain.norm())


@pytest.mark.slow
@pytest.mark.parametrize("joint", [False, True])
def test_the_prefilter_is_applied_to_the_whole_volume(joint):
    config = DenoiserConfig(
        channels=(4, 8), blocks=(1, 1), embedding=8, joint=joint, prefilter=True
    )
    network = ConditionalResidualUNet(config)  # untrained: no correction
    images = 0.5 + 0.1 * torch.randn(2, 16, 8, 16, generator=generator(1))

    def restored(patch: int, synthesised: bool = False) -> torch.Tensor:
        return denoise_volumes(
            network,
            images,
            0.1,
            ("PDw", "T1w"),
            patch=patch,
            generator=generator(),
            synthesised=synthesised,
            scale=torch.ones(2),
        )

    torch.testing.assert_close(restored(8), restored(16), atol=1e-5, rtol=0)
    assert float((restored(8) - images).square().mean()) > 0.5 * 0.1**2
    torch.testing.assert_close(restored(8, synthesised=True), images)
