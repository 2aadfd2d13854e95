"""Quantitative maps as NIfTI files: units, masks and what is refused."""

import nibabel as nib
import numpy as np
import pytest

from mri2qmap.anatomy.lesions import LESIONS
from mri2qmap.anatomy.quantitative_maps import (
    QuantitativeMaps,
    map_folder_hash,
    read_quantitative_maps,
    write_quantitative_maps,
)
from mri2qmap.anatomy.sources import anatomy_hash, find_anatomies, load_anatomy
from mri2qmap.errors import Mri2QmapError

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]])
SHAPE = (12, 10, 8)


def save(folder, **volumes):
    for name, volume in volumes.items():
        nib.save(nib.Nifti1Image(np.asarray(volume, np.float32), AFFINE), folder / f"{name}.nii.gz")


@pytest.fixture
def volumes():
    """White matter, grey matter and fluid in air."""
    t1, t2, density = (np.zeros(SHAPE, np.float32) for _ in range(3))
    for part, values in (
        (slice(2, 5), (0.8, 0.07, 0.7)),
        (slice(5, 8), (1.3, 0.09, 0.85)),
        (slice(8, 10), (4.0, 2.0, 1.0)),
    ):
        for volume, value in zip((t1, t2, density), values, strict=True):
            volume[part, 2:8, 2:6] = value
    return {"T1map": t1, "T2map": t2, "PDmap": density}


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_times_are_read_in_seconds_or_milliseconds(tmp_path, volumes, factor):
    save(tmp_path, T1map=factor * volumes["T1map"], T2map=factor * volumes["T2map"],
         PDmap=100 * volumes["PDmap"])  # fmt: skip
    maps = read_quantitative_maps(tmp_path)
    inside = volumes["PDmap"] > 0
    np.testing.assert_allclose(maps.t1[inside], volumes["T1map"][inside], rtol=1e-5)
    np.testing.assert_allclose(maps.t2[inside], volumes["T2map"][inside], rtol=1e-5)
    np.testing.assert_allclose(maps.proton_density, volumes["PDmap"], rtol=1e-5)
    np.testing.assert_array_equal(maps.affine, AFFINE)
    assert (maps.t1 > 0).all()
    assert (maps.t2 > 0).all()


def test_folders_of_maps_are_found_by_their_names(tmp_path, volumes):
    for name in ("head_1", "head_2"):
        (tmp_path / name).mkdir()
        save(tmp_path / name, **volumes, white_matter_mask=volumes["T1map"] == np.float32(0.8))
    (tmp_path / ".hidden").mkdir()
    save(tmp_path / ".hidden", **volumes)
    assert find_anatomies(tmp_path) == {n: tmp_path / n for n in ("head_1", "head_2")}
    assert find_anatomies(tmp_path, ["head_2"]) == {"head_2": tmp_path / "head_2"}
    with pytest.raises(Mri2QmapError, match=r"single anatomy .* --subjects head_1"):
        find_anatomies(tmp_path / "head_1")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), tmp_path / "head_1.nii.gz")
    with pytest.raises(Mri2QmapError, match="head_1 exists twice"):
        find_anatomies(tmp_path)


def test_tissues_are_told_by_t1_without_masks(tmp_path, volumes):
    save(tmp_path, **volumes)
    maps = load_anatomy(str(tmp_path))
    assert isinstance(maps, QuantitativeMaps)
    np.testing.assert_array_equal(maps.white_matter, volumes["T1map"] == np.float32(0.8))
    np.testing.assert_array_equal(maps.grey_matter, volumes["T1map"] == np.float32(1.3))
    np.testing.assert_array_equal(maps.brain, volumes["PDmap"] > 0)
    np.testing.assert_array_equal(maps.parenchyma(), maps.white_matter | maps.grey_matter)


def test_masks_and_the_field_are_read(tmp_path, volumes):
    masks = {
        name: np.arange(np.prod(SHAPE)).reshape(SHAPE) % step == 0
        for name, step in (("white_matter_mask", 3), ("grey_matter_mask", 5), ("brain_mask", 2))
    }
    save(tmp_path, **volumes, **masks, B1map=np.full(SHAPE, 1.1))
    maps = read_quantitative_maps(tmp_path)
    np.testing.assert_array_equal(maps.white_matter, masks["white_matter_mask"])
    np.testing.assert_array_equal(maps.grey_matter, masks["grey_matter_mask"])
    np.testing.assert_array_equal(maps.brain, masks["brain_mask"])
    assert maps.b1 is not None
    np.testing.assert_allclose(maps.b1, 1.1, rtol=1e-6)
    np.testing.assert_array_equal(
        maps.brain_only().proton_density, maps.proton_density * maps.brain
    )


def test_what_is_written_is_read_again(tmp_path, volumes):
    save(tmp_path, **volumes)
    maps = read_quantitative_maps(tmp_path)
    labels = np.zeros(SHAPE, np.int16)
    labels[3, 4, 4] = 1
    with_lesion = QuantitativeMaps(
        **{
            **vars(maps),
            "lesion_labels": labels,
            "lesions": LESIONS[:1],
            "white_matter": maps.white_matter & (labels == 0),
        }
    )
    folder = tmp_path / "written"
    folder.mkdir()
    write_quantitative_maps(folder, with_lesion)
    again = read_quantitative_maps(folder)
    assert again.lesions == LESIONS[:1]
    for name in ("t1", "t2", "proton_density", "white_matter", "grey_matter", "lesion_labels"):
        np.testing.assert_allclose(getattr(again, name), getattr(with_lesion, name), rtol=1e-6)


def test_lesions_of_another_source_are_named_by_their_labels(tmp_path, volumes):
    labels = np.zeros(SHAPE)
    labels[2:4, 3:5, 3:5], labels[4, 3, 3] = 7, 3
    save(tmp_path, **volumes, lesions=labels)
    maps = read_quantitative_maps(tmp_path)
    assert maps.lesion_labels is not None
    np.testing.assert_array_equal(maps.lesion_labels, np.select([labels == 3, labels == 7], [1, 2]))
    assert [lesion.name for lesion in maps.lesions] == ["lesion 3", "lesion 7"]
    assert not (maps.white_matter & (labels > 0)).any()
    large = maps.lesions[1]
    assert large.diameter_mm == pytest.approx((6 / np.pi * 8 * 8) ** (1 / 3))
    assert large.centre == (2.5, 3.5, 3.5)
    assert (large.t1, large.t2) == pytest.approx((0.8, 0.07))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5], "1 different values"),
        ([-1], "whole positive number"),
        ([np.nan], "whole positive number"),
        (range(1, 1002), "1001 different values were found; labels are expected"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path, labels, message):
    shape, values = (20, 20, 20), np.asarray(list(labels))
    volume = np.zeros(shape)
    volume.flat[: len(values)] = values
    save(tmp_path, **dict.fromkeys(("T1map", "T2map", "PDmap"), np.ones(shape)), lesions=volume)
    with pytest.raises(Mri2QmapError, match=message):
        read_quantitative_maps(tmp_path)


def test_labels_that_the_record_does_not_list_are_refused(tmp_path, volumes):
    save(tmp_path, **volumes, lesions=np.full(SHAPE, 2))
    (tmp_path / "anatomy.json").write_text('{"lesions": []}')
    with pytest.raises(Mri2QmapError, match=r"contains label 2, but anatomy\.json lists 0 lesions"):
        read_quantitative_maps(tmp_path)


def test_the_hash_follows_the_content(tmp_path, volumes):
    save(tmp_path, **volumes)
    before = anatomy_hash(str(tmp_path))
    assert before == map_folder_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no map")
    assert anatomy_hash(str(tmp_path)) == before
    save(tmp_path, PDmap=volumes["PDmap"] * 0.9)
    assert anatomy_hash(str(tmp_path)) != before


def times(value):
    return lambda v: {"T1map": np.where(v["T1map"] > 0, value, 0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {"T2map": None}, "it contains no T2map"),
        (lambda v: {"PDmap": None}, "it contains no PDmap"),
        (times(3e5), "times in s or ms are expected"),
        (times(np.nan), "must be finite"),
        (lambda v: {"T1map": -v["T1map"]}, "not negative"),
        (lambda v: {"PDmap": 0 * v["PDmap"]}, "PDmap must be finite"),
        (lambda v: {"PDmap": v["PDmap"][1:]}, "its grid is not that of T1map"),
        (lambda v: {"T2map": v["T2map"][0]}, "2 dimensions"),
        (lambda v: {"B1map": np.full(SHAPE, 100.0)}, "relative to the nominal field"),
    ],
)
def test_bad_maps_are_refused(tmp_path, volumes, change, message):
    changed = {**volumes, **change(volumes)}
    save(tmp_path, **{name: volume for name, volume in changed.items() if volume is not None})
    with pytest.raises(Mri2QmapError, match=message) as error:
        read_quantitative_maps(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_damaged_map_is_refused(tmp_path, volumes):
    save(tmp_path, **volumes)
    file = tmp_path / "T2map.nii.gz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(Mri2QmapError, match="T2map"):
        read_quantitative_maps(tmp_path)
