from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.denoiser.network import (
    Attention,
    ConditionalResidualUNet,
    DenoiserConfig,
    clamp_noise_level,
    noise_levels,
)
from mri2qmap.training.trainer import add_prefilter_inputs

pytestmark = pytest.mark.usefixtures("near_search")

SMALL = DenoiserConfig(channels=(4, 8, 8), blocks=(1, 1, 1), embedding=8)


JOINT = dataclasses.replace(SMALL, joint=True)
FIRST = dataclasses.replace(JOINT, prefilter=True)
FIVE_AXES = (slice(None), *(None,) * 4)


def inputs(config: DenoiserConfig = SMALL) -> tuple[torch.Tensor, ...]:
    """Noisy patches, noise levels, contrasts present, and whether they are synthesised."""
    joint = config.joint
    side = 8 if config.prefilter else 16  # the pre-filter of larger patches takes long
    shape = (3, 3 if joint else 1, side, side, side)
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]]) if joint else torch.eye(3)
    return noisy, torch.linspace(0.05, 0.3, 3), present.float(), torch.tensor([0.0, 1, 0])


def randomised(config: DenoiserConfig) -> ConditionalResidualUNet:
    torch.manual_seed(0)
    network = ConditionalResidualUNet(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("config", [SMALL, JOINT, FIRST])
@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 8, 24)])
def test_the_shape_is_kept_for_all_multiples_of_eight(config, shape):
    network = randomised(config)
    noisy = torch.randn(2, config.images_per_input, *shape)
    with torch.inference_mode():
        out = network(noisy, torch.full((2,), 0.1), torch.ones(2, 3), torch.zeros(2))
    assert out.shape == noisy.shape
    assert out.dtype == torch.float32


def test_a_new_network_returns_images_of_low_noise():
    network = ConditionalResidualUNet(SMALL)
    noisy, _, *rest = inputs()
    restored = network(noisy, torch.tensor([0.005, 0.05, 0.5]), *rest)
    shares = torch.tensor([1 / 1.01, 0.5, 1 / 101])  # local standard deviation 0.05
    torch.testing.assert_close(restored, noisy * shares[FIVE_AXES])


@pytest.mark.parametrize("config", [SMALL, JOINT, FIRST])
def test_patches_of_a_batch_are_independent(config):
    network = randomised(dataclasses.replace(config, attention_levels=(2,), heads=2))
    arguments = inputs(config)
    with torch.inference_mode():
        together = network(*arguments)
        alone = torch.cat([network(*(a[i : i + 1] for a in arguments)) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [SMALL, JOINT, FIRST])
@pytest.mark.parametrize("changed", ["sigma", "contrast", "synthesised"])
def test_the_output_depends_on_the_conditions(changed, config):
    network = randomised(config)
    noisy, sigma, present, synthesised = inputs(config)
    with torch.inference_mode():
        before = network(noisy, sigma, present, synthesised)
        if changed == "sigma":
            sigma = sigma * 1.5
        elif changed == "contrast":
            present = present.roll(1, dims=0)
        else:
            synthesised = 1 - synthesised
        after = network(noisy, sigma, present, synthesised)
    assert (before - after).norm() > 0.01 * before.norm()


def test_the_prefilter_is_for_white_noise():
    """A new network adds no correction: its output is between the estimates and the input."""
    network = ConditionalResidualUNet(FIRST)
    noisy, _, present, synthesised = inputs(FIRST)
    sigma = torch.full((3,), 0.2)
    with torch.no_grad():
        restored = network(noisy, sigma, present, synthesised)
        expected = sum(classical_prefilter(noisy, sigma)) / 2
    expected[1] = noisy[1]  # synthesised
    share = 0.05**2 / (0.05**2 + 0.2**2)
    torch.testing.assert_close(restored, torch.lerp(expected, noisy, share))


@pytest.mark.parametrize("chosen", [0, 1])
def test_the_network_weights_the_estimates_and_scales_its_correction(chosen):
    network = ConditionalResidualUNet(FIRST)
    noisy, _, present, _ = inputs(FIRST)
    sigma, synthesised = torch.tensor([0.05, 0.2, 0.05]), torch.tensor([0.0, 0.0, 1.0])
    with torch.no_grad():
        mean, log_variance, choice = network.head.bias.chunk(3)
        mean += 0.04
        log_variance -= 20  # smallest weight of the input
        choice += 60 * chosen - 30
        restored = network(noisy, sigma, present, synthesised)
        expected = classical_prefilter(noisy, sigma)[chosen]
    expected[2] = noisy[2]
    expected += 0.5 * 0.04 * torch.tensor([0.5, 1, 1])[FIVE_AXES]
    least = 0.05**2 * math.exp(-4)
    share = (least / (least + sigma**2))[FIVE_AXES]
    torch.testing.assert_close(restored, torch.lerp(expected, noisy, share), atol=1e-5, rtol=0)


def test_prefilter_inputs_can_be_added_to_trained_weights():
    plain = randomised(JOINT)
    wider = ConditionalResidualUNet(FIRST)
    wider.load_state_dict(add_prefilter_inputs(plain.state_dict()))
    noisy, sigma, present, _ = inputs(FIRST)
    synthesised = torch.ones(3)  # the estimates then equal the input, as does the mean
    with torch.inference_mode():
        torch.testing.assert_close(wider(noisy, sigma, present, synthesised), noisy)
        plain.head.weight[: len(plain.head.weight) // 2] = 0
        plain.head.bias[: len(plain.head.bias) // 2] = 0
        local, grouped = classical_prefilter(noisy, sigma)
        share = plain(local, sigma, present, 0 * synthesised) / local  # relative to the input
        restored = wider(noisy, sigma, present, 0 * synthesised)
    expected = torch.lerp((local + grouped) / 2, noisy, share)
    torch.testing.assert_close(restored, expected, atol=1e-3, rtol=1e-3)


def test_a_joint_network_uses_all_contrasts_for_each():
    network = randomised(JOINT)
    noisy, *rest = inputs(JOINT)
    with torch.inference_mode():
        before = network(noisy, *rest)
        noisy[:, 2, 8, 8, 8] += 1
        change = (network(noisy, *rest) - before).abs().amax((0, 2, 3, 4))
    assert (change > 1e-3).all()


def test_stem_is_a_lossless_rearrangement():
    from mri2qmap.denoiser.network import _depth_to_space, _space_to_depth

    images = torch.randn(2, 3, 8, 12, 4)
    cells = _space_to_depth(images, 2)
    assert cells.shape == (2, 24, 4, 6, 2)
    # Channel 13 = 8 + (1, 0, 1): the odd z, even y, odd x voxels of the second image.
    assert torch.equal(cells[:, 13], images[:, 1, 1::2, 0::2, 1::2])
    assert torch.equal(_depth_to_space(cells, 2), images)


def test_attention_mixes_distant_voxels_and_starts_as_identity():
    torch.manual_seed(0)
    attention = Attention(8, heads=2)
    features = torch.randn(1, 8, 4, 4, 4)
    assert torch.equal(attention(features), features)
    torch.nn.init.normal_(attention.out.weight)
    nudged = features.clone()
    nudged[0, :, 0, 0, 0] += torch.randn(8)
    change = (attention(nudged) - attention(features)).detach().abs().amax(1)[0]
    assert change[3, 3, 3] > 1e-4


def test_attention_agrees_with_the_formula():
    torch.manual_seed(0)
    attention = Attention(6, heads=2)
    torch.nn.init.normal_(attention.out.weight)
    features = torch.randn(1, 6, 2, 2, 2)
    tokens = attention.norm(features[0].flatten(1).T)
    query, key, value = attention.qkv(tokens).split(6, dim=1)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        weights = (query[:, part] @ key[:, part].T / math.sqrt(3)).softmax(1)
        heads.append(weights @ value[:, part])
    expected = features + attention.out(torch.cat(heads, 1)).T.reshape(1, 6, 2, 2, 2)
    torch.testing.assert_close(attention(features), expected)


def test_noise_levels_and_their_range():
    levels = noise_levels(SMALL)
    assert len(levels) == 25
    assert levels[[0, -1]].tolist() == pytest.approx([0.005, 0.5])
    ratios = levels[1:] / levels[:-1]
    torch.testing.assert_close(ratios, torch.full((24,), 100 ** (1 / 24)))
    assert clamp_noise_level(0.2, SMALL) == 0.2
    assert clamp_noise_level(7.0, SMALL) == 0.5
    assert clamp_noise_level(1e-9, SMALL) == 0.005


@pytest.mark.parametrize("sigma", [0.0, -0.1, float("nan"), float("inf")])
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match="sigma must be"):
        clamp_noise_level(sigma, SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ()}, "one number for each level"),
        ({"blocks": (1, 1)}, "one number for each level"),
        ({"blocks": (1, 0, 1)}, "at least 1"),
        ({"stem": 0}, "at least 1"),
        ({"attention_levels": (3,)}, "there are 3 levels"),
        ({"attention_levels": (2,), "heads": 3}, "not divisible by 3 heads"),
        ({"sigma_min": 0.5}, "sigma_min < sigma_max"),
        ({"sigma_levels": 1}, "two levels"),
        ({"contrasts": ("T1w", "T1w")}, "distinct"),
    ],
)
def test_bad_config(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("shape", [(1, 1, 12, 16, 16), (1, 16, 16, 16), (1, 3, 16, 16, 16)])
def test_bad_patch_shape(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, 1, z, y, x\).* multiples of 8"):
        ConditionalResidualUNet(SMALL)(
            torch.zeros(shape), torch.ones(1), torch.ones(1, 3), torch.zeros(1)
        )
