from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.anatomy.label_maps import load_label_map
from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.denoiser.network import CONTRASTS
from mri2qmap.training.admm_recordings import AdmmRecording, AdmmRecordings
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.patches import PatchSource
from mri2qmap.training.training_images import TrainingVolume, synthesise_volume

SETTINGS = ImageSettings(size=24, pool=3, refresh=4)


def source(
    label_folder, joint=False, admm_recordings=None, hidden=(), conditions=None, lanes=1, **changes
) -> PatchSource:
    anatomies = [load_label_map(label_folder / f"head_{name}.nii.gz") for name in "ab"]
    settings = dataclasses.replace(SETTINGS, **changes)

    def draw(rng: np.random.Generator) -> TrainingVolume:
        volume = synthesise_volume(anatomies[int(rng.integers(2))], settings, rng)
        if not hidden:
            return volume
        present = torch.tensor([contrast not in hidden for contrast in CONTRASTS])
        return TrainingVolume(volume.images * present[:, None, None, None], present)

    return PatchSource(draw, settings, joint, 3, admm_recordings, conditions, lanes=lanes)


PRESENT, SIGMAS = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0.01, 0.05, 0.1, 0.5])


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_batch_depends_only_on_the_step(label_folder, lanes):
    steady, jumping = (source(label_folder, lanes=lanes) for _ in range(2))
    batches = [steady.batch(step, 16, PRESENT, SIGMAS) for step in range(14)]
    for step in (13, 2, 9):
        batch = jumping.batch(step, 16, PRESENT, SIGMAS)
        assert torch.equal(batch.clean, batches[step].clean)
        assert torch.equal(batch.noise, batches[step].noise)
    assert not torch.equal(batches[0].clean, batches[1].clean)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(
    "kind", [None, "coloured_fraction", "scaled_fraction", "map_error_fraction"]
)
def test_noise_of_every_kind_has_unit_root_mean_square(label_folder, kind, joint):
    none = {"coloured_fraction": 0.0, "scaled_fraction": 0.0, "map_error_fraction": 0.0}
    patches = source(label_folder, joint, **{**none, **({kind: 1.0} if kind else {})})
    batch = patches.batch(0, 16, torch.ones(4, 3) if joint else PRESENT, SIGMAS)
    assert batch.clean.shape == batch.noise.shape == (4, 3 if joint else 1, 16, 16, 16)
    size = batch.noise.square().mean((2, 3, 4)).sqrt()
    torch.testing.assert_close(size, torch.ones_like(size), atol=0.06, rtol=0)
    added = (batch.noisy - batch.clean).square().mean((2, 3, 4)).sqrt()
    torch.testing.assert_close(added, SIGMAS[:, None] * size, rtol=1e-4, atol=1e-5)
    neighbours = (batch.noise[:, :, 1:] * batch.noise[:, :, :-1]).mean((2, 3, 4))
    assert batch.synthesised.tolist() == 4 * [float(kind == "map_error_fraction")]
    if kind is None:
        assert neighbours.abs().max() < 0.06


def test_contrasts_of_a_joint_patch_have_the_same_position(label_folder):
    complete = source(label_folder, joint=True).batch(0, 16, torch.ones(4, 3), SIGMAS)
    edges = (complete.clean.diff(dim=2).abs() > 0.02).float().flatten(2)
    shared = torch.stack([torch.corrcoef(patch)[0, 2] for patch in edges])
    assert (shared > 0.3).all()


def test_missing_contrasts_of_a_joint_patch_are_zero(label_folder):
    present = torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]])
    batch = source(label_folder, joint=True).batch(0, 16, present, SIGMAS)
    assert torch.equal((batch.noisy.abs().amax((2, 3, 4)) > 0).float(), present)


def test_recorded_inputs_come_with_their_truth_scale_and_level(label_folder):
    axes = torch.meshgrid(*(torch.arange(24.0),) * 3, indexing="ij")
    truth = torch.stack([1 + 0.01 * axis for axis in axes]).half()
    recording = AdmmRecording(
        truth,
        inputs=torch.stack([truth.float() + 0.1, truth.float() / 2 - 0.1]).half(),
        scales=torch.tensor([[1.0, 1, 1], [2, 2, 2]]),
        sigmas=torch.tensor([0.15, 0.04]),
    )
    patches = source(
        label_folder, joint=True, admm_recordings=AdmmRecordings([recording]), loop_fraction=1.0
    )
    batch = patches.batch(0, 16, torch.ones(4, 3), SIGMAS)
    for clean, noisy, sigma in zip(batch.clean, batch.noisy, batch.sigma, strict=True):
        first = math.isclose(float(sigma), 0.15, rel_tol=1e-6)
        assert first or math.isclose(float(sigma), 0.04, rel_tol=1e-6)
        added = torch.full_like(clean, 0.1 if first else -0.1)
        torch.testing.assert_close(noisy - clean, added, atol=2e-3, rtol=0)
        assert clean.mean() > 1 if first else clean.mean() < 0.7
    assert len(set(batch.sigma.tolist())) == 2
    assert batch.synthesised.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("lanes", [1, 4])
def test_parts_of_a_batch_equal_the_whole_batch(label_folder, lanes):
    whole = source(label_folder, lanes=lanes).batch(3, 16, PRESENT, SIGMAS)
    second = source(label_folder, lanes=lanes).batch(3, 16, PRESENT[2:], SIGMAS[2:], first=2)
    for name in ("clean", "noise", "sigma", "present", "synthesised", "estimates"):
        assert torch.equal(getattr(second, name), getattr(whole, name)[2:])


def test_single_image_networks_get_an_available_contrast(label_folder):
    wanted = torch.eye(3).repeat_interleave(20, dim=0)
    patches = source(label_folder, hidden=("T2w",))
    batch = patches.batch(0, 16, wanted, torch.full((60,), 0.1))
    held = batch.present
    assert (held.sum(1) == 1).all()
    assert torch.equal(held[:20], wanted[:20])
    assert torch.equal(held[40:], wanted[40:])
    assert 0.2 < float(held[20:40, 0].mean()) < 0.8
    assert not held[:, 1].any()
    assert float((batch.clean.amax((1, 2, 3, 4)) > 0.5).float().mean()) > 0.9


def test_joint_networks_receive_the_contrasts_present(label_folder):
    wanted = torch.tensor([[1.0, 1, 1], [0, 1, 1], [0, 1, 0], [1, 0, 0]])
    batch = source(label_folder, joint=True, hidden=("T2w",)).batch(0, 16, wanted, SIGMAS)
    assert batch.present.tolist() == [[1, 0, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]]
    assert torch.equal((batch.noisy.abs().amax((2, 3, 4)) > 0).float(), batch.present)


def test_volumes_without_maps_get_white_noise(label_folder):
    shares = {"coloured_fraction": 0.0, "scaled_fraction": 0.0, "map_error_fraction": 1.0}
    noise = source(label_folder, hidden=("T1w",), **shares).batch(0, 16, PRESENT, SIGMAS).noise
    for axis in (2, 3, 4):
        neighbours = (noise.narrow(axis, 1, 15) * noise.narrow(axis, 0, 15)).mean((1, 2, 3, 4))
        assert neighbours.abs().max() < 0.06
    kurtosis = (noise**4).mean((1, 2, 3, 4))
    torch.testing.assert_close(kurtosis, torch.full((4,), 3.0), atol=0.5, rtol=0)


@pytest.fixture
def estimated_shapes(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of all images that are pre-filtered."""
    shapes: list[tuple[int, ...]] = []

    def recorded(noisy, sigma):
        shapes.append(tuple(noisy.shape))
        return classical_prefilter(noisy, sigma)

    monkeypatch.setattr("mri2qmap.training.patches.classical_prefilter", recorded)
    return shapes


WHITE = {"coloured_fraction": 0.0, "scaled_fraction": 0.0, "map_error_fraction": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("joint", [False, True])
def test_whole_volumes_are_prefiltered(label_folder, estimated_shapes, joint):
    levels: list[float] = []

    def conditions(rng):
        sigma = torch.tensor([rng.uniform(0.05, 0.2)])
        levels.append(float(sigma))
        return (torch.ones(1, 3) if joint else PRESENT[:1]), sigma

    patches = source(label_folder, joint, conditions=conditions, **WHITE)
    batch = patches.batch(0, 16, torch.ones(8, 3), torch.full((8,), 9.0))
    assert estimated_shapes == SETTINGS.pool * [(1, 3 if joint else 1, 24, 24, 24)]
    assert set(batch.sigma.tolist()) <= set(levels)
    errors = (batch.estimates - batch.clean[:, None]).square().mean((2, 3, 4, 5))
    assert (errors < 0.7 * batch.sigma.square()[:, None]).all()
    assert errors[:, 1].mean() < errors[:, 0].mean()
    patches.batch(SETTINGS.refresh, 16, torch.ones(8, 3), torch.full((8,), 9.0))
    assert len(estimated_shapes) == SETTINGS.pool + 1


@pytest.mark.slow
def test_volumes_of_other_patches_are_not_drawn(label_folder, estimated_shapes):
    patches = source(
        label_folder,
        True,
        conditions=lambda rng: (torch.ones(1, 3), SIGMAS[1:2]),
        lanes=4,
        **WHITE,
    )
    patches.batch(0, 16, torch.ones(2, 3), SIGMAS[:2], first=2)
    assert len(estimated_shapes) == 2
    late = 4 * SETTINGS.refresh
    patches.batch(late - 1, 16, torch.ones(2, 3), SIGMAS[:2], first=2)
    assert len(estimated_shapes) == 2
    patches.batch(late, 16, torch.ones(2, 3), SIGMAS[:2], first=2)
    assert len(estimated_shapes) == 4


@pytest.mark.parametrize("recorded", [False, True])
def test_synthesised_images_are_not_prefiltered(label_folder, estimated_shapes, recorded):
    def conditions(rng):
        return torch.tensor([[1.0, 0, 1]]), torch.tensor([0.1])

    images = torch.rand(3, 24, 24, 24).half()
    recording = AdmmRecording(images, images[None], torch.ones(1, 3), torch.tensor([0.1]))
    shares = {**WHITE, "map_error_fraction": 1.0, "loop_fraction": float(recorded)}
    loops = AdmmRecordings([recording]) if recorded else None
    patches = source(label_folder, True, loops, conditions=conditions, **shares)
    batch = patches.batch(0, 16, torch.tensor([[1.0, 0, 1]]).expand(4, 3), SIGMAS)
    assert not estimated_shapes
    assert batch.synthesised.tolist() == [1, 1, 1, 1]
    assert batch.present.tolist() == 4 * [[1, 0, 1]]
    torch.testing.assert_close(batch.estimates, batch.noisy[:, None].expand_as(batch.estimates))
