from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.anatomy.label_maps import LabelMap, average_table, load_label_map
from mri2qmap.anatomy.label_tissues import draw_tissue_table
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.synthesis import SpinEcho
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.training_images import _synthesise, blur, synthesise_volume

SETTINGS = ImageSettings(size=24, pool=3, refresh=4)


@pytest.fixture(scope="module")
def anatomy(label_folder) -> LabelMap:
    return load_label_map(label_folder / "head_a.nii.gz")


def save(path, values, zooms=(1.0, 1.0, 1.0)):
    image = nib.Nifti1Image(values, np.diag([*zooms, 1]))
    nib.save(image, path)
    return path


def test_a_label_map_is_cropped_transposed_and_reindexed(tmp_path):
    values = np.zeros((10, 12, 14), np.int16)
    values[2:5, 3:9, 4:6] = 507
    values[3, 4:6, 5] = 41
    loaded = load_label_map(save(tmp_path / "a.nii.gz", values, (1.0, 2.0, 3.0)))
    assert loaded.indices.shape == (2, 6, 3)
    assert loaded.labels == (0, 41, 507)
    assert loaded.voxel_size == (3.0, 2.0, 1.0)
    np.testing.assert_array_equal(
        np.array(loaded.labels)[loaded.indices], values[2:5, 3:9, 4:6].transpose(2, 1, 0)
    )
    assert loaded.brain_centre == (1.0, 1.5, 1.0)
    assert loaded.brain_extent == (1.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4, 4), np.int16), "whole numbers, not all zero"),
        (np.ones((4, 4), np.int16), "3-D volume"),
        (np.full((4, 4, 4), 0.5, np.float32), "whole numbers"),
        (np.full((4, 4, 4), 507, np.int16), "no label of the brain"),
        (np.arange(512, dtype=np.int16).reshape(8, 8, 8), "512 labels"),
    ],
)
def test_bad_label_map(tmp_path, values, message):
    path = save(tmp_path / "bad.nii.gz", values)
    with pytest.raises(Mri2QmapError, match=message) as caught:
        load_label_map(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no NIfTI at all", None])
def test_unreadable_label_map(tmp_path, content):
    path = tmp_path / "bad.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Mri2QmapError, match="cannot be read as NIfTI"):
        load_label_map(path)


def test_truncated_label_map(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (20, 20, 20), np.int16)
    path = save(tmp_path / "cut.nii.gz", labels)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(Mri2QmapError, match="cannot be read as NIfTI"):
        load_label_map(path)


LABELS = (0, 2, 3, 4, 10, 24, 30, 41, 42, 49, 85, 502, 507, 509, 511, 515, 516)


def test_tissue_values_are_physical_and_symmetric():
    rng = np.random.default_rng(0)
    column = {label: row for row, label in enumerate(LABELS)}
    drawn = np.stack([draw_tissue_table(LABELS, False, rng) for _ in range(200)])
    assert np.all(drawn[..., 1] <= drawn[..., 0])
    assert np.all(drawn[:, column[0], 2] == 0)
    for left, right in ((2, 41), (3, 42), (10, 49)):
        np.testing.assert_array_equal(drawn[:, column[left]], drawn[:, column[right]])
    white, thalamus, grey, fluid = (drawn[:, column[label], 0] for label in (2, 10, 3, 24))
    assert np.mean((white < thalamus) & (thalamus < grey)) > 0.6
    assert np.mean((white < grey) & (grey < fluid)) > 0.95


@pytest.mark.parametrize(
    ("label", "paper"), [(24, (4.0, 1.99, 1.0)), (3, (1.25, 0.09, 0.85)), (2, (0.75, 0.07, 0.75))]
)
def test_tissue_ranges_contain_the_values_of_the_paper(label, paper):
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_tissue_table((0, label), False, rng)[1] for _ in range(400)])
    assert np.all(drawn.min(0) < paper)
    assert np.all(drawn.max(0) > paper)


def test_skull_stripping_leaves_only_the_brain():
    table = draw_tissue_table(LABELS, True, np.random.default_rng(0))
    outside = np.array(LABELS) >= 500
    assert np.all(table[outside, 2] == 0)
    assert np.all(table[~outside, 2][1:] > 0)


def test_synthesis_of_known_values():
    t1, t2, pd = np.array([[1.0], [0.1], [2.0]])
    images = _synthesise(t1, t2, pd, [SpinEcho(np.log(2), 0.1), SpinEcho(np.log(4), 0.0)])
    np.testing.assert_allclose(images, [[1 / np.e], [1.5]])


def test_partial_volume_average():
    indices = np.zeros((4, 4, 4), np.uint8)
    indices[:, :, 2:] = 1
    indices[0] = 2
    table = np.array([[1, 10], [3, 30], [5, 50]], np.float32)
    # A 2x2x2 grid of voxels twice as large: voxel centres at 0.5 and 2.5.
    out = average_table(indices, table, 2 * np.eye(3), np.full(3, 0.5), 2, 2)
    assert out.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(out[1, :, 0, 0], 1)
    np.testing.assert_allclose(out[1, :, 1, 0], 3)
    np.testing.assert_allclose(out[0, :, 0, 0], 3)  # half 5, half 1
    np.testing.assert_allclose(out[..., 1], 10 * out[..., 0])
    beyond = average_table(indices, table, 2 * np.eye(3), np.full(3, 2.5), 2, 2)
    np.testing.assert_allclose(beyond[1, 1, 1], 0)


def test_blur_keeps_the_sum_and_has_its_width():
    image = np.zeros((1, 15, 15, 15), np.float32)
    image[0, 7, 7, 7] = 1
    for sigma in (0.3, 0.7, 1.5):
        out = blur(image, sigma)
        assert out.sum() == pytest.approx(1, abs=1e-5)
        for axes in ((0, 2, 3), (0, 1, 3), (0, 1, 2)):
            variance = (out.sum(axes) * (np.arange(15) - 7) ** 2).sum()
            assert variance == pytest.approx(sigma**2, rel=1e-3)


def test_volumes_are_scaled_and_determined_by_the_seed(anatomy):
    for seed in range(6):
        first, again = (
            synthesise_volume(anatomy, SETTINGS, np.random.default_rng(seed)) for _ in range(2)
        )
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.map_errors, again.map_errors)
        assert first.images.shape == (3, 24, 24, 24)
        assert torch.isfinite(first.images).all()
        assert (first.images >= 0).all()
        scales = intensity_scale(first.images)
        assert (scales > 0.75).all()
        assert (scales < 1.3).all()


def test_ball_volumes_vanish_at_the_border(anatomy):
    settings = dataclasses.replace(SETTINGS, ball_fraction=1.0, brain_fraction=0.0)
    for seed in range(4):
        images = synthesise_volume(anatomy, settings, np.random.default_rng(seed)).images
        assert float(images[:, 0].max()) == 0
        assert float(images[:, :, :, -1].max()) == 0
        assert float(images.max()) > 0.7


@pytest.mark.parametrize(
    "changes",
    [
        {"ball_fraction": 0.7, "brain_fraction": 0.4},
        {"map_error_fraction": 1.2},
        {"loop_fraction": 1.5},
        {"bias_fraction": -0.1},
        {"acquired_fraction": -0.5},
        {"cache_gib": -1.0},
        {"size": 0},
        {"refresh": 0},
        {"fine_voxels": (2.5, 1.0)},
        {"coarse_voxels": (2.5, 40.0)},
    ],
)
def test_bad_image_settings(changes):
    with pytest.raises(Mri2QmapError, match="training config, images"):
        ImageSettings(**changes)
