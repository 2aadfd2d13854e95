"""Results of a scan as messages that are read while they are sent."""

import ismrmrd
import numpy as np
import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.message_encoding import encode_message, stored_parts
from mri2qmap.hosts.protocol import DicomFile
from mri2qmap.scan_queue import results

KINDS = (np.float32, np.complex64, np.uint16, np.float64)


@pytest.fixture
def folder(tmp_path):
    """Images of several types, two in one series, and a DICOM file."""
    generator = np.random.default_rng(0)
    with ismrmrd.Dataset(str(tmp_path / results.IMAGES), mode="w") as dataset:
        for series, kind in enumerate((*KINDS, KINDS[-1]), start=9):
            pixels = (100 * generator.random((2, 5, 6, 7))).astype(kind)
            image = ismrmrd.Image.from_array(pixels, transpose=False)
            image.meta = ismrmrd.Meta({"ImageComment": f"größer {series}", "GADGETRON": ["1", "2"]})
            image.image_series_index = min(series, 12)
            dataset.append_image(f"image_{image.image_series_index}", image)
    place = tmp_path / results.DICOM / "parametric" / "T1map.dcm"
    place.parent.mkdir(parents=True)
    place.write_bytes(bytes(range(256)) * 3)
    return tmp_path


def whole(message):
    return b"".join(stored_parts(message))


@pytest.mark.parametrize("at_once", [1, 300, 2**20])
def test_images_are_sent_as_they_were_written(folder, monkeypatch, at_once):
    monkeypatch.setattr(results, "_AT_ONCE", at_once)
    with ismrmrd.Dataset(str(folder / results.IMAGES), mode="r") as dataset:
        expected = [
            b"".join(encode_message(dataset.read_image(f"image_{series}", number)))
            for series, number in ((9, 0), (10, 0), (11, 0), (12, 0), (12, 1))
        ]
    assert [whole(message) for message in results.images(folder)] == expected


@pytest.mark.parametrize("at_once", [1, 300, 2**20])
def test_dicom_files_are_sent_as_they_are(folder, monkeypatch, at_once):
    monkeypatch.setattr(results, "_AT_ONCE", at_once)
    (message,) = results.dicom_files(folder)
    content = (folder / results.DICOM / "parametric" / "T1map.dcm").read_bytes()
    expected = encode_message(DicomFile(content, "parametric/T1map.dcm"))
    assert whole(message) == b"".join(expected)


def test_a_small_part_is_in_memory_at_a_time(tmp_path):
    pixels = np.zeros((1, 64, 256, 256), np.float32)
    with ismrmrd.Dataset(str(tmp_path / results.IMAGES), mode="w") as dataset:
        dataset.append_image("image_1", ismrmrd.Image.from_array(pixels, transpose=False))
    (message,) = results.images(tmp_path)
    lengths = [len(part) for part in stored_parts(message)]
    assert max(lengths) <= 2**20
    assert sum(lengths) > pixels.nbytes


def damaged(folder):
    (folder / results.IMAGES).write_bytes(b"no images")


def without_groups(folder):
    with ismrmrd.Dataset(str(folder / results.IMAGES), mode="w") as dataset:
        dataset.write_xml_header(b"<x/>")
        del dataset._file["dataset"]


@pytest.mark.parametrize("change", [damaged, without_groups])
def test_what_cannot_be_read_is_an_error_without_the_place_on_the_server(folder, change):
    change(folder)
    with pytest.raises(Mri2QmapError, match=r"mrd\.h5 of the scan cannot be read") as error:
        list(results.images(folder))
    assert str(folder) not in str(error.value)


def test_a_file_that_vanishes_is_an_error(folder):
    messages = [*results.images(folder), *results.dicom_files(folder)]
    (folder / results.IMAGES).unlink()
    for path in folder.rglob("*.dcm"):
        path.unlink()
    for message in messages:
        with pytest.raises(Mri2QmapError, match="cannot be read"):
            whole(message)
