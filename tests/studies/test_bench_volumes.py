import math

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.heads import write_heads

from mri2qmap.anatomy.label_maps import label_maps_of
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.metrics import OBJECT
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.studies.bench_volumes import acquired_heads, synthetic_heads, whole_anatomy


def test_subjects_have_the_requested_order(tmp_path):
    write_heads(tmp_path, "c", "a", "b")
    (tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    found = label_maps_of(tmp_path, ["b", "a", "b"])
    assert [path.name for path in found.values()] == ["b.nii.gz", "a.nii"]


@pytest.mark.parametrize(
    ("folder", "subjects", "message"),
    [
        ("missing", ["a"], "missing is not a folder"),
        ("empty", ["a"], "contains no NIfTI files"),
        ("heads", ["a", "z"], "--subjects z: .* available: a, b"),
    ],
)
def test_missing_label_maps(tmp_path, folder, subjects, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "heads").mkdir()
    write_heads(tmp_path / "heads", "a", "b")
    with pytest.raises(Mri2QmapError, match=message):
        label_maps_of(tmp_path / folder, subjects)


def test_heads_are_drawn_from_each_subject_and_the_seed(tmp_path):
    maps = list(label_maps_of(write_heads(tmp_path, "a", "b"), ["a", "b"]).values())
    volumes = synthetic_heads(maps, 3, 16, (1.0, 1.5), seed=1)
    assert [(v.group, v.index) for v in volumes] == [("a, b", i) for i in range(3)]
    assert len({v.content for v in volumes}) == 3
    again = synthetic_heads(maps, 3, 16, (1.0, 1.5), seed=1)
    assert [v.content for v in volumes] == [v.content for v in again]
    other = synthetic_heads(maps, 3, 16, (1.0, 1.5), seed=2)
    assert not {v.content for v in volumes} & {v.content for v in other}
    assert synthetic_heads(maps, 1, 16, (1.0, 1.5), seed=1)[0].group == "a"
    for v in volumes:
        assert v.images.shape == (3, 16, 16, 16)
        assert (v.images > OBJECT).any()


def test_whole_anatomy_has_the_contrasts_of_its_tissues(tmp_path):
    path = write_heads(tmp_path, "head") / "head.nii.gz"
    volume = whole_anatomy(str(path), 16)
    assert volume.group == "head, 2 mm"
    # (T1, T2, PD) of the paper's phantom; spin echoes of TR 0.5, 5, 5 s and TE 10, 100, 10 ms.
    for image, repetition, echo in zip(volume.images, (0.5, 5, 5), (0.01, 0.1, 0.01), strict=True):
        fluid, white = (
            density * (1 - math.exp(-repetition / t1)) * math.exp(-echo / t2)
            for t1, t2, density in ((4.0, 1.99, 1.0), (0.75, 0.07, 0.75))
        )
        ventricle, matter = float(image[8, 8, 8]), float(image[8, 8, 11])
        assert ventricle / matter == pytest.approx(fluid / white, rel=1e-4)
    assert float(intensity_scale(volume.images).sub(1).abs().max()) < 1e-5
    assert float(volume.images[0, 0, 0, 0]) == 0


def write_images(folder, subject, images):
    """Write contrast -> image (x, y, z) with voxels of 1 mm."""
    for contrast, image in images.items():
        nib.save(
            nib.Nifti1Image(np.asarray(image, np.float32), np.eye(4)),
            folder / f"{subject}-{contrast}.nii.gz",
        )


def test_acquired_images_have_a_volume_for_each_subject(weighted_folder):
    volumes = acquired_heads({"T1w": weighted_folder, "T2w": weighted_folder}, 24)
    assert [(v.group, v.index) for v in volumes] == [(f"subject{i}", 0) for i in range(5)]
    both = (Contrast.T1W, Contrast.T2W)
    assert [v.contrasts for v in volumes] == [both] * 4 + [both[:1]]
    for v in volumes:
        assert v.images.shape == (len(v.contrasts), 24, 24, 24)
        assert v.images.dtype == torch.float32
        assert float(intensity_scale(v.images).sub(1).abs().max()) < 1e-5
    t1w, t2w = volumes[0].images[:, 12, 12, [12, 23]]  # centre, and 11.5 mm to the right
    assert float(t1w[0] / t1w[1]) == pytest.approx(5 / 3, rel=1e-3)
    assert float(t2w[0] / t2w[1]) == pytest.approx(1 / 3, rel=1e-3)


def test_the_acquired_cube_lies_around_the_head_and_within_the_image(tmp_path):
    image = np.random.default_rng(0).uniform(0.001, 0.002, (40, 30, 20))
    image[30:, 8:16, 6:14] += np.random.default_rng(1).uniform(0.5, 1, (10, 8, 8))  # x, y, z
    write_images(tmp_path, "a", {"T2w": image})
    (volume,) = acquired_heads({"T2w": tmp_path}, 16)
    assert volume.contrasts == (Contrast.T2W,)
    # Centre x 34.5, y 11.5, z 9.5: x would end at 42.
    expected = image[24:40, 4:20, 2:18].transpose(2, 1, 0)
    found = volume.images[0].numpy()
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=1e-3)


@pytest.mark.parametrize(
    ("sides", "size", "message"),
    [
        ((36, 20, 40), 21, r"--size 21: .*subject a .*36 x 20 x 40 .*--size 20 or less"),
        ((36, 40, 17), 32, r"--size 32: .*36 x 40 x 17 .*--size 17 or less"),
    ],
)
def test_images_smaller_than_the_cube_are_refused(tmp_path, sides, size, message):
    write_images(tmp_path, "a", {"T1w": np.ones(sides)})
    with pytest.raises(Mri2QmapError, match=message):
        acquired_heads({"T1w": tmp_path}, size)
    assert acquired_heads({"T1w": tmp_path}, min(sides))


def test_the_region_that_the_contrasts_share_counts(tmp_path):
    write_images(tmp_path, "a", {"T1w": np.ones((40, 40, 40)), "PDw": np.ones((40, 40, 20))})
    assert acquired_heads({"T1w": tmp_path}, 32)
    with pytest.raises(Mri2QmapError, match="40 x 40 x 20"):
        acquired_heads({"T1w": tmp_path, "PDw": tmp_path}, 32)


def test_an_image_that_is_empty_in_the_cube_is_refused(tmp_path):
    shell = np.ones((40, 40, 40))
    shell[8:32, 8:32, 8:32] = 0
    write_images(tmp_path, "a", {"T1w": np.ones((40, 40, 40)), "T2w": shell})
    with pytest.raises(Mri2QmapError, match="subject a: its T2w image is empty in the central 16"):
        acquired_heads({"T1w": tmp_path, "T2w": tmp_path}, 16)
