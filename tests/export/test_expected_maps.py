"""Check of the output of a server."""

import dataclasses
from collections.abc import Iterable

import ismrmrd
import numpy as np
import pytest
from export.scans import export, minimal_header, oblique_geometry, random_maps, reread, scan_info

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.expected_maps import ExpectedMaps, ServerResponse
from mri2qmap.export.quantity import OPTIONAL
from mri2qmap.parametric_maps import ParametricMapsSettings
from mri2qmap.pipeline.items import DicomObject

GEOMETRY = oblique_geometry()
SCAN = dataclasses.replace(
    scan_info(minimal_header()), matrix=GEOMETRY.matrix, voxel_size=GEOMETRY.voxel_size
)
MAPS = {"mrd": "float", "dicom": "none", "synthetic_images": False}
T1, T2, PD, QUALITY = range(4)
"""Indices of the images of `MAPS` in an answer."""


def answer(optional=False, **settings) -> list:
    """Items of a complete answer, as received from a server."""
    items = export(random_maps(GEOMETRY, optional=optional), nifti=False, **settings)
    return [
        DicomObject(reread(item.dataset), item.path)
        if isinstance(item, DicomObject)
        else ismrmrd.Image.from_bytes(item.to_bytes())
        for item in items
    ]


def promise(optional=False, **settings) -> ExpectedMaps:
    return ExpectedMaps.from_settings(
        ParametricMapsSettings(**settings), OPTIONAL if optional else ()
    )


def check(items: Iterable, expected: ExpectedMaps, dicom_is_sent=False) -> list:
    """Return the images of maps in an answer, if it is accepted."""
    found = ServerResponse(expected, SCAN)
    for item in items:
        found.add(item)
    return found.checked_maps(dicom_is_sent)


def stranger(value=np.nan) -> ismrmrd.Image:
    return ismrmrd.Image(data=np.full((1, 2, 2, 2), value, np.float32))


FORMS = [
    {"mrd": "float", "dicom": "none"},
    {"mrd": "uint16", "dicom": "none", "method": "Other", "series_offset": 7},
    {"mrd": "both", "dicom": "both"},
    {"mrd": "float", "dicom": "none", "mrd_layout": "slices"},
    {"mrd": "uint16", "dicom": "none", "mrd_layout": "slices"},
    {"mrd": "none", "dicom": "classic"},
    {"mrd": "none", "dicom": "parametric"},
    {"mrd": "none", "dicom": "parametric", "synthetic_images": False},
    MAPS,
]


@pytest.mark.parametrize("settings", FORMS, ids=str)
@pytest.mark.parametrize("optional", [False, True])
def test_complete_answer_is_accepted(settings, optional):
    items = answer(optional, **settings)
    images = [item for item in items if isinstance(item, ismrmrd.Image)]
    expected = promise(optional, **settings)
    check([stranger(), *items], expected, dicom_is_sent=settings["dicom"] != "none")
    if images:  # a Gadgetron server relays only images
        maps = check(images[::-1], expected)
        assert {image.data.shape[1:] for image in maps} == {GEOMETRY.matrix}
        assert len(maps) == len(expected.quantities) * len(expected.forms)
    if settings["dicom"] != "parametric":  # unknown configuration
        check(items, ExpectedMaps())


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_incomplete_answer_is_refused(settings):
    items = answer(**settings)
    for number, left_out in enumerate(items):
        kind = "DICOM objects are missing of" if isinstance(left_out, DicomObject) else "missing"
        if isinstance(left_out, DicomObject) and number % 9:
            continue
        with pytest.raises(Mri2QmapError, match=kind):
            check(items[:number] + items[number + 1 :], promise(**settings), dicom_is_sent=True)
    for nothing in ([], [stranger(1)]):
        with pytest.raises(Mri2QmapError, match="missing"):
            check(nothing, promise(**settings))
        with pytest.raises(Mri2QmapError, match="images of T1map, T2map, PDmap are missing"):
            check(nothing, ExpectedMaps())


def test_dicom_is_required_from_the_stand_alone_server_only():
    settings = {"mrd": "float", "dicom": "classic", "synthetic_images": False}
    images = [item for item in answer(**settings) if isinstance(item, ismrmrd.Image)]
    assert len(check(images, promise(**settings))) == 4
    with pytest.raises(Mri2QmapError, match=r"of T1map \(0 of 5\), T2map \(0 of 5\)"):
        check(images, promise(**settings), dicom_is_sent=True)


def test_pipeline_without_server_output_is_refused():
    with pytest.raises(Mri2QmapError, match="a server has nothing to send"):
        promise(mrd="none", dicom="none")


def changed(image: ismrmrd.Image, data: np.ndarray | None = None, **header) -> ismrmrd.Image:
    head = image.getHead()
    data = image.data if data is None else np.ascontiguousarray(data, image.data.dtype)
    for axis, size in enumerate(data.shape[:0:-1]):
        head.matrix_size[axis] = size
    head.channels = data.shape[0]
    result = ismrmrd.Image(head=head, data=data, meta=image.meta)
    for name, value in header.items():
        setattr(result, name, value)
    return result


def one_of(data: np.ndarray, value: float) -> np.ndarray:
    result = data.copy()
    result.flat[7] = value
    return result


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: changed(image, np.full_like(image.data, np.nan)), "240 of 240 values"),
        (lambda image: changed(image, one_of(image.data, np.inf)), "1 of 240 values"),
        (lambda image: changed(image, np.zeros_like(image.data)), "is zero everywhere"),
        (lambda image: changed(image, image.data[:, :, :, :-1]), "has the size 5 x 6 x 7"),
        (lambda image: changed(image, np.moveaxis(image.data, 1, 2)), "the scan has 5 x 6 x 8"),
        (lambda image: changed(image, np.repeat(image.data, 2, axis=0)), "are missing"),
        (lambda image: changed(image, field_of_view=(9.6, 10.2, 16.0)), "field of view 16 x"),
        (lambda image: changed(image, position=(0.0, 0.0, 500.0)), "have different positions"),
        (lambda image: changed(image, read_dir=(1.0, 0.0, 0.0)), "have different positions"),
    ],
)
@pytest.mark.parametrize("number", [T1, T2, PD])
def test_invalid_map_is_refused(change, words, number):
    items = answer(**MAPS)
    items[number] = change(items[number])
    for expected in (promise(**MAPS), ExpectedMaps()):
        with pytest.raises(Mri2QmapError, match=words):
            check(items, expected)


def test_negative_times_are_refused():
    items = answer(**MAPS)
    items[T2] = changed(items[T2], one_of(items[T2].data, -3))
    with pytest.raises(Mri2QmapError, match="T2map has negative values, down to -3"):
        check(items, promise(**MAPS))


def test_invalid_map_is_refused_despite_a_valid_one_of_another_form():
    settings = {"mrd": "both", "dicom": "none", "synthetic_images": False}
    items = answer(**settings)
    items[0] = changed(items[0], np.full_like(items[0].data, np.nan))
    assert items[1].data_type == ismrmrd.DATATYPE_USHORT
    with pytest.raises(Mri2QmapError, match="float image of T1map has 240 of 240"):
        check(items, ExpectedMaps())


def test_repeated_image_must_be_identical():
    items = answer(**MAPS)
    received = ServerResponse(promise(**MAPS), SCAN)
    news = [received.add(item) for item in [*items, items[T1], stranger(), stranger()]]
    assert news == [True] * 4 + [False] + [True] * 2
    assert len(received.checked_maps(False)) == 4
    again = changed(items[T1], items[T1].data + 1)
    for expected in (promise(**MAPS), ExpectedMaps()):
        with pytest.raises(Mri2QmapError, match="two different float images of T1"):
            check([*items, again], expected)


def test_foreign_images_are_ignored():
    """Gadgetron's own gadgets also use the role T1."""
    items = answer(**MAPS)
    other = changed(items[T1], 2 * items[T1].data, image_series_index=3)
    maps = check([other, *items], promise(**MAPS))
    np.testing.assert_array_equal(maps[0].data, items[T1].data)
    small = changed(items[T2], items[T2].data[:, :2], image_series_index=3)
    assert len(check([small, *items], ExpectedMaps())) == 4
    bad_quality = changed(items[QUALITY], np.full_like(items[QUALITY].data, np.nan))
    assert len(check([*items[:QUALITY], bad_quality], ExpectedMaps())) == 3
    with pytest.raises(Mri2QmapError, match="matchquality has 240"):
        check([*items[:QUALITY], bad_quality], promise(**MAPS))


@pytest.mark.parametrize("dicom", ["classic", "parametric"])
def test_invalid_dicom_is_refused(dicom):
    settings = {"mrd": "none", "dicom": dicom, "synthetic_images": False}
    element = "PixelData" if dicom == "classic" else "FloatPixelData"

    def with_t1(change) -> list:
        items = answer(**settings)
        for item in items:
            if item.path.startswith(("T1map/", "parametric/T1map")):
                change(item.dataset)
        return items

    def zero(dataset):
        setattr(dataset, element, bytes(len(getattr(dataset, element))))

    def cut(dataset):
        setattr(dataset, element, getattr(dataset, element)[:-8])

    def smaller(dataset):
        dataset.Rows -= 1
        pixels = getattr(dataset, element)
        frames = int(dataset.get("NumberOfFrames", 1))
        kept = len(pixels) // (dataset.Rows + 1) * dataset.Rows
        setattr(dataset, element, pixels[: kept - kept % frames])

    def not_finite(dataset):
        dataset.FloatPixelData = np.float32(np.nan).tobytes() + dataset.FloatPixelData[4:]

    cases = [(zero, "is zero everywhere"), (cut, "cannot be read"), (smaller, "has the size")]
    cases += [(not_finite, "not finite")] * (dicom == "parametric")
    for change, words in cases:
        with pytest.raises(Mri2QmapError, match=words):
            check(with_t1(change), promise(**settings))
    check(with_t1(lambda dataset: None), promise(**settings))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda slices: slices[:2] + slices[3:], "missing: 2"),
        (lambda slices: [*slices, changed(slices[1], slices[1].data + 1)], "duplicated: 1"),
        (
            lambda slices: [*slices[:3], changed(slices[3], slice=2), *slices[4:]],
            "missing: 3, duplicated: 2",
        ),
        (
            lambda slices: [
                *slices[:3],
                changed(slices[3], position=tuple(slices[4].position)),
                *slices[4:],
            ],
            "slice 3 is at",
        ),
        (
            lambda slices: [
                changed(s, slice=4 - s.slice) for s in slices
            ],  # numbered in reverse order
            r"slice \d is at",
        ),
        (
            lambda slices: [changed(s, read_dir=(0.0, 0.0, 1.0)) for s in slices[:1]] + slices[1:],
            "has another orientation",
        ),
    ],
)
def test_inconsistent_slices_are_refused(change, words):
    settings = {**MAPS, "mrd_layout": "slices"}
    items = answer(**settings)
    first = [item for item in items if item.image_series_index == items[0].image_series_index]
    rest = items[len(first) :]
    assert len(first) == GEOMETRY.matrix[0]
    assert len(check([*rest, *first[::-1]], promise(**settings))) == 4
    with pytest.raises(Mri2QmapError, match=words):
        check([*change(first), *rest], promise(**settings))
