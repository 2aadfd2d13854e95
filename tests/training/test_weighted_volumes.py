from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training import weighted_volumes
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.training_images import random_grid
from mri2qmap.training.weighted_volumes import (
    WeightedHead,
    WeightedSubject,
    WeightedVolumes,
    _sample,
    draw_weighted_volume,
)

SETTINGS = ImageSettings(size=24, fine_voxels=(1.0, 1.5), coarse_voxels=(1.5, 2.0))
CENTRE = np.array([4.0, -7.0, 21.0])


def brightness(places: np.ndarray) -> np.ndarray:
    """A head in the scanner (..., x y z [mm]): an ellipsoid, brighter to the right and the top."""
    x, y, z = np.moveaxis(places - CENTRE, -1, 0)
    inside = (x / 14) ** 2 + (y / 18) ** 2 + (z / 16) ** 2 < 1
    return inside * (1 + 0.02 * x + 0.01 * z)


def oblique(
    zooms: tuple[float, float, float], order: str = "xyz", angle: float = 0.3
) -> np.ndarray:
    """Affine whose axes point along the letters (capitals: backwards), turned about z."""
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    axes = np.stack(
        [np.eye(3)["xyz".index(o.lower())] * (1 if o.islower() else -1) for o in order], axis=1
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(zooms)
    return affine


def write(path: Path, affine: np.ndarray, shape=(50, 52, 54), gain=700.0, shift=(0, 0, 0)) -> Path:
    """Image of the head whose middle voxel lies at the centre of the head, plus a shift [mm]."""
    affine = affine.copy()
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = CENTRE - middle + shift
    index = np.moveaxis(np.indices(shape), 0, -1)
    values = gain * brightness(apply_affine(affine, index))
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return path


@pytest.mark.parametrize(
    "affine",
    [
        oblique((1.0, 1.0, 1.0), angle=0.0),
        oblique((0.9, 1.1, 1.3)),
        oblique((1.2, 0.9, 1.0), "ZXy", -0.2),
        oblique((0.6, 0.7, 0.7)),
    ],
)
def test_images_lie_where_their_affines_say(tmp_path, affine):
    shape = tuple(int(44 / size) for size in np.sqrt((affine[:3, :3] ** 2).sum(0)))
    subject = WeightedSubject("s", {"T2w": write(tmp_path / "a.nii.gz", affine, shape)})
    head = subject.load()
    assert head.present.tolist() == [False, True, False]
    assert not head.images[[0, 2]].any()
    image = head.images[1].float().numpy()
    sides, places = subject.grid
    assert image.shape == sides[::-1]
    assert min(sides) >= 42
    np.testing.assert_array_equal(places[:3, :3], np.eye(3))
    world = apply_affine(places, np.moveaxis(np.indices(sides), 0, -1)).transpose(2, 1, 0, 3)
    expected = brightness(world)
    inside = brightness(1.2 * (world - CENTRE) + CENTRE) > 0
    ratio = image[inside] / expected[inside]
    assert ratio.std() < 0.002 * ratio.mean()
    assert float(intensity_scale(head.images.float())[1]) == pytest.approx(1, rel=0.05)
    outside = brightness(0.85 * (world - CENTRE) + CENTRE) == 0
    assert image[outside].max() < 0.05
    centre = (CENTRE - places[:3, 3])[::-1]
    np.testing.assert_allclose(head.brain_centre, centre, atol=0.3)
    np.testing.assert_allclose(head.brain_extent, (32, 36, 28), atol=1.5)


def test_contrasts_of_a_subject_share_one_grid(tmp_path):
    files = {
        "T1w": write(tmp_path / "t1.nii.gz", oblique((1.0, 1.0, 1.2)), gain=1e4),
        "PDw": write(tmp_path / "pd.nii", oblique((0.9, 0.9, 1.0), "Yzx"), gain=0.3),
    }
    head = WeightedSubject("s", files).load()
    assert head.present.tolist() == [True, False, True]
    first, second = head.images[0].float(), head.images[2].float()
    both = (first > 0.3) & (second > 0.3)
    assert float(both.float().mean()) > 0.1
    assert float((first - second)[both].abs().median()) < 0.005
    assert float(((first > 0.3) ^ (second > 0.3)).float().sum() / both.float().sum()) < 0.08


def test_grid_covers_what_all_contrasts_cover(tmp_path):
    files = {
        "T1w": write(tmp_path / "t1.nii", oblique((1.0, 1.0, 1.0), angle=0), (40, 40, 40)),
        "T2w": write(
            tmp_path / "t2.nii", oblique((1.0, 1.0, 1.0), angle=0), (60, 40, 40), shift=(0, 0, 9)
        ),
    }
    assert WeightedSubject("s", files).load().images.shape == (3, 31, 40, 40)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    path = write(tmp_path / "a.nii", oblique((1.0, 1.0, 1.0)))
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[..., None], image.affine), tmp_path / "b.nii")
    plain, four = (
        WeightedSubject("s", {"T1w": tmp_path / name}).load().images for name in ("a.nii", "b.nii")
    )
    assert torch.equal(plain, four)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


CUBE = np.ones((24, 24, 24), np.float32)


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (np.ones((24, 24, 24, 3), np.float32), None, r"expected a 3-D .* shape \(24, 24, 24, 3\)"),
        (np.ones((24, 24), np.float32), None, r"expected a 3-D .* got shape \(24, 24\)"),
        (np.ones((24, 24, 1), np.float32), None, r"expected a 3-D volume"),
        (np.ones((24, 24, 24), np.complex64), None, "type complex64"),
        (CUBE, np.diag([0.0, 1, 1, 1]), "its affine is singular"),
        (
            CUBE,
            np.diag([0.5, 0.5, 0.5, 1]),
            "subject s: the extent of its image is less than 16 mm",
        ),
        (CUBE, np.diag([1000.0, 1000, 1000, 1]), "are its voxel sizes in millimetres"),
        (np.where(np.arange(24) == 5, np.nan, CUBE), None, "not finite; set them to zero"),
        (0 * CUBE, None, "almost empty"),
        (-CUBE, None, "almost empty"),
    ],
)
def test_bad_images(tmp_path, values, affine, message):
    path = tmp_path / "bad.nii"
    image = nib.Nifti1Image(values, None)
    image.header.set_sform(np.eye(4) if affine is None else affine, code=1)
    nib.save(image, path)
    with pytest.raises(Mri2QmapError, match=message) as caught:
        WeightedSubject("s", {"T1w": path}).load()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 100, 3000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_images(tmp_path, suffix, kept):
    values = np.random.default_rng(0).random((24, 24, 24), np.float32)
    path = save(tmp_path / f"cut{suffix}", values)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Mri2QmapError, match="cannot be read"):
        WeightedSubject("s", {"T1w": path}).load()


def test_contrasts_that_do_not_overlap(tmp_path):
    first = save(tmp_path / "a.nii", CUBE)
    affine = np.eye(4)
    affine[2, 3] = 12
    second = save(tmp_path / "b.nii", CUBE, affine)
    with pytest.raises(
        Mri2QmapError, match=r"the overlap of its images is less than 16 mm .*register them"
    ):
        WeightedSubject("s", {"T1w": first, "T2w": second})


@pytest.fixture
def heads(tmp_path) -> list[WeightedSubject]:
    return [
        WeightedSubject(str(n), {"T1w": write(tmp_path / f"{n}.nii", oblique((1.0, 1.0, 1.0)))})
        for n in range(3)
    ]


def test_volumes_are_scaled_and_determined_by_the_seed(heads):
    head = heads[0].load()
    for seed in range(6):
        first, again = (
            draw_weighted_volume(head, SETTINGS, np.random.default_rng(seed)) for _ in range(2)
        )
        assert torch.equal(first.images, again.images)
        assert first.images.shape == (3, 24, 24, 24)
        assert first.images.dtype == torch.float32
        assert first.present.tolist() == [True, False, False]
        assert first.map_errors is None
        assert not first.images[1:].any()
        assert torch.isfinite(first.images).all()
        assert 0.75 < float(intensity_scale(first.images)[0]) < 1.3
    other = draw_weighted_volume(head, SETTINGS, np.random.default_rng(7))
    assert not torch.equal(first.images, other.images)


def test_voxels_are_averages_over_their_extent():
    grid = torch.meshgrid(*(torch.arange(20.0),) * 3, indexing="ij")
    ramps = torch.stack([grid[0] + 10 * grid[1] + 100 * grid[2], (grid[2] % 2)])
    turn = np.array([[0, 2.0, 0], [-2.0, 0, 0], [0, 0, 2.0]])  # voxels of 2 x 2 x 2, axes swapped
    sampled = _sample(ramps, turn, np.array([3.5, 15.5, 2.5]), 6)
    z, y, x = np.indices((6, 6, 6))
    expected = (3.5 + 2 * y) + 10 * (15.5 - 2 * z) + 100 * (2.5 + 2 * x)
    np.testing.assert_allclose(sampled[0], expected, rtol=1e-4)
    np.testing.assert_allclose(sampled[1], 0.5, atol=1e-4)
    beyond = _sample(ramps + 1, np.eye(3), np.array([30.0, 0, 0]), 6)
    assert not beyond.any()


@pytest.mark.parametrize("size", [1.4, 2.2, 2.3, 4.0])
def test_voxel_size_of_drawn_volumes(tmp_path, size):
    """The volume of the head, in voxels, falls with their size; its place is that of the grid."""
    files = {"PDw": write(tmp_path / "a.nii", oblique((1.0, 1.0, 1.0), angle=0))}
    head = WeightedSubject("s", files).load()
    settings = dataclasses.replace(
        SETTINGS,
        size=32,
        fine_voxels=(size, size),
        fine_fraction=1.0,
        ball_fraction=0.0,
        bias_fraction=0.0,
        smooth_fraction=0.0,
    )
    ellipsoid = 4 / 3 * np.pi * 14 * 18 * 16
    found, centres = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image = draw_weighted_volume(head, settings, rng).images[2]
        found.append(float((image > 0.4).sum()) * size**3)
        rng = np.random.default_rng(seed)
        rng.random(), rng.uniform()
        sizes = size * np.exp(rng.normal(0, 0.04, 3))
        matrix, offset = random_grid(head, sizes, 32, rng)
        found[-1] *= np.prod(sizes) / size**3
        bright = np.argwhere(image.numpy() > 0.4).mean(0)
        centres.append(matrix @ bright + offset - head.brain_centre)
    np.testing.assert_allclose(np.mean(found), ellipsoid, rtol=0.06)
    np.testing.assert_allclose(centres, 0, atol=0.8)


def test_memory_for_heads_is_bounded(heads, monkeypatch):
    loads: list[str] = []
    load = WeightedSubject.load

    def counted(subject: WeightedSubject) -> WeightedHead:
        loads.append(subject.name)
        return load(subject)

    monkeypatch.setattr(weighted_volumes.WeightedSubject, "load", counted)
    size = heads[0].load().images.nbytes
    loads.clear()

    def draws(fitting: float) -> list[torch.Tensor]:
        settings = dataclasses.replace(SETTINGS, cache_gib=fitting * size / 2**30)
        volumes = WeightedVolumes(heads, settings)
        order = (0, 1, 0, 2, 0, 1)
        return [volumes.draw(i, np.random.default_rng(i)).images for i in order]

    ample = draws(3.5)
    assert loads == ["0", "1", "2"]
    loads.clear()
    tight = draws(2.5)
    assert loads == ["0", "1", "2", "1"]
    loads.clear()
    none = draws(0)
    assert loads == ["0", "1", "0", "2", "0", "1"]
    for a, b, c in zip(ample, tight, none, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
