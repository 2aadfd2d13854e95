"""One 2D image per slice, for hosts that make DICOM of each image."""

import functools
import itertools

import ismrmrd
import numpy as np
import pytest
from export.scans import (
    export,
    full_header,
    masked_maps,
    oblique_geometry,
    patient_coordinate,
    random_maps,
)

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.mrd_slices import with_volumes
from mri2qmap.export.received_maps import received_maps
from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp

STAMP = AcquisitionStamp(4711, 20_404_000, (1.5, 0.0, -1234.0))
EVEN = oblique_geometry((1, 1, -1), matrix=(4, 6, 8))


@functools.cache
def sent(layout="slices", geometry=EVEN, mrd="both", **settings):
    maps = random_maps(geometry, optional=True)
    items = export(
        maps,
        full_header(),
        stamp=STAMP,
        mrd=mrd,
        mrd_layout=layout,
        dicom="none",
        nifti=False,
        **settings,
    )
    return [ismrmrd.Image.from_bytes(item.to_bytes()) for item in items]


def by_series(images):
    def series_index(image):
        return image.image_series_index

    return {index: list(group) for index, group in itertools.groupby(images, series_index)}


@pytest.mark.parametrize("geometry", [EVEN, oblique_geometry(), oblique_geometry(matrix=(1, 6, 8))])
def test_slices_contain_the_volume(geometry):
    volumes = by_series(sent("volume", geometry))
    slices = by_series(sent("slices", geometry))
    assert list(slices) == list(volumes)
    assert set(volumes) == {*range(101, 112), *range(121, 132)}
    for index, images in slices.items():
        (volume,) = volumes[index]
        pixels = np.concatenate([image.data for image in images], axis=1)
        expected = np.abs(volume.data) if index == 123 else volume.data
        np.testing.assert_allclose(pixels, expected, rtol=1e-6)
        assert pixels.dtype == expected.dtype
        assert all(image.image_type == ismrmrd.IMTYPE_MAGNITUDE for image in images)


@pytest.mark.parametrize("index", [101, 121])
@pytest.mark.parametrize("signs", [(1, 1, 1), (1, 1, -1), (-1, 1, 1)])
def test_position_of_every_voxel_follows_from_its_slice(index, signs):
    """Gadgetron's DICOM gadgets place the first voxel half a field of view before the position."""
    geometry = oblique_geometry(signs, matrix=(4, 6, 8))
    for z, image in enumerate(by_series(sent("slices", geometry))[index]):
        head = image.getHead()
        n_x, n_y, n_z = head.matrix_size
        assert (n_x, n_y, n_z) == (8, 6, 1)
        read, phase = np.array(head.read_dir), np.array(head.phase_dir)
        side_x, side_y, thickness = head.field_of_view
        assert thickness == pytest.approx(3.1)
        first = np.array(head.position) - side_x / 2 * read - side_y / 2 * phase
        for y, x in ((0, 0), (5, 7), (3, 4)):
            found = first + x * side_x / n_x * read + y * side_y / n_y * phase
            np.testing.assert_allclose(found, patient_coordinate(geometry, z, y, x), atol=1e-3)


@pytest.mark.parametrize("geometry", [EVEN, oblique_geometry(), oblique_geometry(matrix=(1, 6, 8))])
def test_slices_are_assembled_to_the_volume(geometry):
    shuffled = list(sent("slices", geometry))
    np.random.default_rng(1).shuffle(shuffled)
    again = {image.image_series_index: image for image in with_volumes(shuffled)}
    for image in sent("volume", geometry):
        found = again.pop(image.image_series_index)
        expected = np.abs(image.data) if image.image_series_index == 123 else image.data
        np.testing.assert_allclose(found.data, expected, rtol=1e-6)
        for name in ("field_of_view", "position", "read_dir", "phase_dir", "slice_dir"):
            np.testing.assert_allclose(getattr(found, name), getattr(image, name), atol=1e-4)
        for name in ("measurement_uid", "slice", "image_index", "contrast", "matrix_size"):
            assert list(np.ravel(getattr(found, name))) == list(np.ravel(getattr(image, name)))
        if image.image_series_index != 123:  # its UIDs are of another export
            assert {**found.meta, "SeriesInstanceUID": ""} == {
                **image.meta,
                "SeriesInstanceUID": "",
            }
    assert not again


def test_other_images_are_unchanged():
    volumes = sent("volume")
    assert with_volumes(volumes) == volumes
    assert with_volumes([*volumes, *sent()])[: len(volumes)] == volumes


def test_maps_are_recovered_from_slices():
    maps = received_maps(with_volumes(sent(mask_threshold=0)))
    truth = random_maps(EVEN, optional=True)
    for name in ("t1", "t2", "match_quality", "weighted", "t1_std", "consistency"):
        np.testing.assert_allclose(getattr(maps, name), getattr(truth, name), rtol=1e-6)
    np.testing.assert_allclose(maps.proton_density.abs(), truth.proton_density.abs(), rtol=1e-6)
    np.testing.assert_allclose(maps.geometry.affine_lps, EVEN.affine_lps, rtol=1e-5, atol=1e-7)


def test_slice_is_not_mistaken_for_the_map():
    """For a reader of single images."""
    roles = {image.image_series_index: image.meta["GADGETRON_DataRole"] for image in sent("volume")}
    for image in sent():
        assert image.meta["GADGETRON_DataRole"] == [roles[image.image_series_index], "SLICE"]
    found = received_maps(sent())
    assert found is None or found.t1.shape == EVEN.matrix


@pytest.mark.parametrize("change", ["missing", "duplicate", "size"])
def test_slices_that_do_not_form_a_volume_are_refused(change):
    images = by_series(sent())[101]
    if change == "missing":
        images = [images[0], *images[2:]]
    elif change == "duplicate":
        images = [*images, images[1]]
    else:
        images[1] = ismrmrd.Image(
            head=images[1].getHead(), data=images[1].data[..., 1:].copy(), meta=images[1].meta
        )
    with pytest.raises(Mri2QmapError, match=r"series 101: .* 4 slices of one size are expected"):
        with_volumes(images)


@pytest.mark.parametrize("layout", ["slices", "volume"])
def test_headers_contain_time_table_position_and_numbers(layout):
    for images in by_series(sent(layout)).values():
        assert [image.image_index for image in images] == list(range(1, len(images) + 1))
        assert [image.slice for image in images] == list(range(len(images)))
        for image in images:
            head = image.getHead()
            assert (head.measurement_uid, head.acquisition_time_stamp) == (4711, 20_404_000)
            assert tuple(head.patient_table_position) == (1.5, 0.0, -1234.0)
            assert tuple(head.physiology_time_stamp) == (0, 0, 0)
            assert AcquisitionStamp.from_item(image) == STAMP


# attributes that public OpenRecon modules check, and that mrd2dicom reads
EXPECTED = {
    "NumberOfSlices": "4",
    "ImagesInAcquisition": "4",
    "slice_count": "4",
    "partition_count": "1",
    "Actual3DImagePartNumber": "0",
    "AnatomicalPartitionNo": "0",
    "Keep_image_geometry": "1",
    "ComplexImageComponent": "MAGNITUDE",
    "RescaleSlope": "1",
    "RescaleIntercept": "0",
}


def test_meta_of_a_slice():
    uids = set()
    for images in by_series(sent()).values():
        for number, image in enumerate(images):
            meta = image.meta
            assert {name: meta[name] for name in EXPECTED} == EXPECTED
            for name in ("SliceNo", "AnatomicalSliceNo", "ChronSliceNo", "ProtocolSliceNumber"):
                assert meta[name] == str(number)
            for name in ("ImageNumber", "NumberInSeries", "GADGETRON_ImageNumber"):
                assert meta[name] == str(number + 1)
            for name, vector in (
                ("ImageRowDir", image.read_dir),
                ("ImageColumnDir", image.phase_dir),
                ("ImageSliceNormDir", image.slice_dir),
                ("SlicePosLightMarker", image.position),
            ):
                np.testing.assert_allclose([float(c) for c in meta[name]], vector, atol=1e-4)
            # mrd2dicom joins these with an underscore, and adds to the description
            assert all(isinstance(value, str) for value in meta["ImageComment"])
            assert len(meta["ImageComment"]) >= 2
            assert isinstance(meta["SeriesDescription"], str)
            assert len(meta["ImageType"]) >= 3
            assert "ImageTypeValue3" not in meta
            assert all(meta.values())
            uids.add(meta["SOPInstanceUID"])
    assert len(uids) == len(sent())


@pytest.mark.parametrize(
    ("index", "value"),
    [(101, "T1 MAP"), (104, "MATCH QUALITY"), (105, ["T1W", "SYNTHETIC"]), (109, "T2 STD DEV")],
)
def test_image_type_value_4(index, value):
    assert by_series(sent())[index][0].meta["ImageTypeValue4"] == value


def test_repeated_export_gives_the_same_bytes():
    def contents():
        items = export(masked_maps(), full_header(), stamp=STAMP, mrd_layout="slices", dicom="none")
        return [item.to_bytes() for item in items if isinstance(item, ismrmrd.Image)]

    assert contents() == contents()


@pytest.mark.parametrize("number", [-1, 2**32])
def test_stamp_beyond_32_bits_is_refused(number):
    with pytest.raises(ValueError, match="32-bit"):
        AcquisitionStamp(measurement_uid=number)
