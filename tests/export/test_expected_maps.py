"""Which answers of a server count as maps."""

import dataclasses

import ismrmrd
import numpy as np
import pytest
from export.scans import export, minimal_header, oblique_geometry, random_maps, scan_info

from mri2qmap.combined_matching import CombinedMatchingSettings
from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.expected_maps import ExpectedMaps, refuse_missing_maps
from mri2qmap.parametric_maps import ParametricMapsSettings
from mri2qmap.stream.items import DicomObject

GEOMETRY = oblique_geometry()
SCAN = dataclasses.replace(scan_info(minimal_header()), matrix=GEOMETRY.matrix)


def answer(uncertainty=False, **settings) -> tuple[list, list[str]]:
    """Images and DICOM paths of a whole answer."""
    items = export(random_maps(GEOMETRY, uncertainty=uncertainty), nifti=False, **settings)
    images = [ismrmrd.Image.from_bytes(i.to_bytes()) for i in items if not hasattr(i, "path")]
    return images, [i.path for i in items if isinstance(i, DicomObject)]


def promise(uncertainty=False, **settings) -> ExpectedMaps:
    wanted = CombinedMatchingSettings(uncertainty=uncertainty)
    return ExpectedMaps.of(ParametricMapsSettings(**settings), wanted.uncertainty)


FORMS = [
    {"mrd": "float", "dicom": "none"},
    {"mrd": "uint16", "dicom": "none"},
    {"mrd": "both", "dicom": "both"},
    {"mrd": "float", "dicom": "none", "mrd_layout": "slices"},
    {"mrd": "none", "dicom": "classic"},
    {"mrd": "none", "dicom": "parametric"},
    {"mrd": "float", "dicom": "none", "synthetic_images": False},
]


@pytest.mark.parametrize("settings", FORMS, ids=str)
@pytest.mark.parametrize("uncertainty", [False, True])
def test_a_whole_answer_is_accepted(settings, uncertainty):
    images, paths = answer(uncertainty, **settings)
    stranger = ismrmrd.Image(data=np.full((1, 2, 2, 2), np.nan, np.float32))
    refuse_missing_maps([stranger, *images], paths, promise(uncertainty, **settings), SCAN)
    if images:  # a Gadgetron server passes on images only
        refuse_missing_maps(images[::-1], [], promise(uncertainty, **settings), SCAN)
        refuse_missing_maps(images, [], ExpectedMaps(), SCAN)


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_an_answer_that_lacks_anything_is_refused(settings):
    images, paths = answer(**settings)
    for number in range(len(images)):
        fewer = images[:number] + images[number + 1 :]
        with pytest.raises(Mri2QmapError, match=r"missing|slices"):
            refuse_missing_maps(fewer, paths, promise(**settings), SCAN)
    for number in range(0, len(paths), 5):
        fewer = paths[:number] + paths[number + 1 :]
        synthetic = settings["dicom"] == "parametric" and not paths[number].startswith("parametric")
        if not synthetic:
            with pytest.raises(Mri2QmapError, match="DICOM objects are missing of"):
                refuse_missing_maps(images, fewer, promise(**settings), SCAN)
    with pytest.raises(Mri2QmapError, match="missing"):
        refuse_missing_maps([], [], promise(**settings), SCAN)


def changed(image: ismrmrd.Image, data: np.ndarray) -> ismrmrd.Image:
    head = image.getHead()
    for axis, size in enumerate(data.shape[:0:-1]):
        head.matrix_size[axis] = size
    return ismrmrd.Image(head=head, data=data, meta=image.meta)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: np.full_like(data, np.nan), "not finite"),
        (
            lambda data: np.where(np.arange(data.size).reshape(data.shape) == 7, np.inf, data),
            "1 of",
        ),
        (np.zeros_like, "is zero everywhere"),
        (lambda data: data[:, :, :, :-1], "has the size"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_map_that_cannot_be_used_is_refused(change, words, number):
    images, _ = answer(mrd="float", dicom="none")
    data = np.ascontiguousarray(change(images[number].data)).astype(images[number].data.dtype)
    images[number] = changed(images[number], data)
    with pytest.raises(Mri2QmapError, match=words):
        refuse_missing_maps(images, [], promise(mrd="float", dicom="none"), SCAN)


def test_one_map_with_two_contents_is_refused():
    images, _ = answer(mrd="float", dicom="none")
    again = changed(images[0], images[0].data + 1)
    promised = promise(mrd="float", dicom="none")
    refuse_missing_maps([*images, images[0]], [], promised, SCAN)
    with pytest.raises(Mri2QmapError, match="two different float images of T1"):
        refuse_missing_maps([*images, again], [], promised, SCAN)
