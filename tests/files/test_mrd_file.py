import h5py
import ismrmrd
import numpy as np
import pytest
from helpers.scans import acquisitions, header, remove, truncate, write_scan

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files import mrd_file
from mri2qmap.files.mrd_file import MrdFile, MrdImageWriter


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scan.h5")


@pytest.mark.parametrize("block_bytes", [1, 3000, 2**25])
def test_file_is_read_with_any_block_size(scan, monkeypatch, block_bytes):
    monkeypatch.setattr(mrd_file, "BLOCK_BYTES", block_bytes)
    with MrdFile(scan) as file:
        assert file.header.decode() == header()
        assert file.n_acquisitions == len(acquisitions())
        assert file.n_waveforms == 0
        assert list(file.items()) == acquisitions()


def test_acquisitions_are_writable(scan):
    with MrdFile(scan) as file:
        for acquisition in file.acquisitions():
            acquisition.data[:] *= 2


def test_waveforms_follow_the_acquisitions(scan):
    waves = [ismrmrd.Waveform.from_array(np.arange(n, dtype=np.uint32)[None]) for n in (3, 5)]
    with h5py.File(scan, "r+") as file:
        rows = np.empty(2, ismrmrd.hdf5.waveform_dtype)
        for row, wave in zip(rows, waves, strict=True):
            row["head"] = np.frombuffer(wave.getHead(), ismrmrd.hdf5.waveform_header_dtype)[0]
            row["data"] = wave.data.ravel()
        file["dataset"].create_dataset("waveforms", data=rows)
    with MrdFile(scan) as file:
        assert file.n_waveforms == 2
        assert list(file.items())[len(acquisitions()) :] == waves


def test_headers_are_read_by_name_not_by_position(scan, tmp_path):
    """Other libraries may store the same fields in another layout."""
    other = tmp_path / "other.h5"
    with h5py.File(scan) as source, h5py.File(other, "w") as target:
        rows = source["dataset/data"][:]
        names = rows["head"].dtype.names[::-1]
        head = np.dtype([(name, rows["head"].dtype[name]) for name in names], align=True)
        arrays = [(name, rows.dtype[name]) for name in ("data", "traj")]
        changed = np.empty(len(rows), np.dtype([("head", head), *arrays]))
        for name in head.names:
            changed["head"][name] = rows["head"][name]
        changed["traj"], changed["data"] = rows["traj"], rows["data"]
        group = target.create_group("dataset")
        group["xml"] = [header()]
        group.create_dataset("data", data=changed)
    with MrdFile(other) as file:
        assert list(file.items()) == acquisitions()


def not_hdf5(path):
    path.write_text("This is a letter.")


def empty(path):
    path.write_bytes(b"")


def empty_group(path):
    with h5py.File(path, "r+") as file:
        del file["dataset"]
        file.create_group("something")


def folder(path):
    path.unlink()
    path.mkdir()


def damage_samples(path):
    with h5py.File(path, "r+") as file:
        row = file["dataset/data"][5]
        row["data"] = row["data"][:-2]
        file["dataset/data"][5] = row


def damage_header(path):
    with h5py.File(path, "r+") as file:
        del file["dataset/xml"]
        file["dataset"].create_dataset("xml", shape=(0,), dtype=h5py.string_dtype())


def other_table(path):
    with h5py.File(path, "r+") as file:
        del file["dataset/data"]
        file["dataset/data"] = np.zeros(3, [("head", "f4"), ("data", "f4")])


def waveforms_of_numbers(path):
    with h5py.File(path, "r+") as file:
        file["dataset/waveforms"] = np.zeros(3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (waveforms_of_numbers, ["'dataset/waveforms' is not a table of waveforms"]),
        (lambda path: path.unlink(), ["does not exist"]),
        (folder, ["not a file"]),
        (empty, ["neither an HDF5 file nor an ISMRMRD stream"]),
        (not_hdf5, ["neither an HDF5 file nor an ISMRMRD stream"]),
        (truncate, ["truncated"]),
        (empty_group, ["'dataset' is missing", "something"]),
        (remove("xml"), ["XML header", "missing"]),
        (damage_header, ["XML header", "damaged"]),
        (remove("data"), ["acquisitions", "dataset/data", "missing"]),
        (other_table, ["lacks the field traj"]),
        (damage_samples, ["acquisition 5 is damaged", "94 data values", "96"]),
    ],
)
def test_invalid_file_is_refused(scan, change, words):
    change(scan)
    with pytest.raises(Mri2QmapError) as caught:
        with MrdFile(scan) as file:
            list(file.items())
    message = str(caught.value)
    assert str(scan) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_group_name_that_is_not_utf8(scan):
    content = scan.read_bytes()
    assert content.count(b"dataset\0") == 1
    scan.write_bytes(content.replace(b"dataset\0", b"data\xffet\0"))
    with MrdFile(scan) as file:
        assert list(file.items()) == acquisitions()
        assert file.name.encode().endswith(rb"group data\xffet")


def test_damaged_table_is_reported_when_it_is_read(scan):
    content = bytearray(scan.read_bytes())
    with h5py.File(scan) as file:
        chunk = file["dataset/data"].id.get_chunk_info(6)
        offset = chunk.byte_offset + 340 + 4  # the samples follow header and length
    content[offset : offset + 8] = b"\xff" * 8
    scan.write_bytes(content)
    with pytest.raises(Mri2QmapError, match=r"acquisitions .* cannot be read: the file is damaged"):
        with MrdFile(scan) as file:
            list(file.items())


def test_images_are_written_by_series(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for series, dtype in ((1, np.float32), (2, np.complex64), (1, np.float32)):
        data = rng.standard_normal((1, 3, 4, 5)).astype(dtype)
        image = ismrmrd.Image(data=data, meta=ismrmrd.Meta({"Unit": "ms"}))
        image.image_series_index = series
        images.append(image)
    path = tmp_path / "images.h5"
    writer = MrdImageWriter(path, header().encode())
    for image in images:
        writer.write(image)
    writer.close()
    assert writer.n_images == 3
    dataset = ismrmrd.Dataset(str(path), mode="r")
    assert dataset.read_xml_header().decode() == header()
    assert dataset.number_of_images("image_1") == 2
    for group, number, image in (("image_1", 0, 0), ("image_1", 1, 2), ("image_2", 0, 1)):
        back = dataset.read_image(group, number)
        np.testing.assert_array_equal(back.data, images[image].data)
        assert back.meta == {"Unit": "ms"}
    dataset.close()
