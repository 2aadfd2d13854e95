import math

import pytest
from helpers.heads import write_heads

from mri2qmap.anatomy.label_maps import label_maps_of
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.metrics import OBJECT
from mri2qmap.studies.bench_volumes import synthetic_heads, whole_anatomy


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
