"""Raw scans in any type of ISMRMRD file: streams, groups of any name, other files."""

import io
import struct
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from helpers.scans import GROUPS, N_FRAMES, acquisitions, expected_sum, header, write_scan
from ismrmrd.serialization import ConfigText, ProtocolSerializer

from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.files.mrd_stream_file import MrdStreamFile
from mri2qmap.files.scan_files import open_scan

IMAGING = GROUPS * N_FRAMES


def waveform(number: int) -> ismrmrd.Waveform:
    wave = ismrmrd.Waveform.from_array(np.arange(6, dtype=np.uint32).reshape(2, 3) + number)
    wave.scan_counter = number
    return wave


def stream(*items, close: bool = True) -> bytes:
    """Bytes written by the serializer of the ismrmrd package."""
    content = io.BytesIO()
    serializer = ProtocolSerializer(content)
    for item in items:
        serializer.serialize(item)
    if close:
        serializer.close()
    return content.getvalue()


def parsed(xml: str | None = None) -> ismrmrd.xsd.ismrmrdHeader:
    return ismrmrd.xsd.CreateFromDocument(xml or header())


def header_message(document: bytes) -> bytes:
    return struct.pack("<HI", 3, len(document)) + document


def whole_stream() -> bytes:
    readouts = acquisitions()
    return stream(parsed(), readouts[0], waveform(0), *readouts[1:], waveform(1))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return tmp_path / "scan.h5"  # the name does not determine the type


def test_stream_is_read_in_order(scan):
    scan.write_bytes(whole_stream())
    with open_scan(scan) as file:
        assert isinstance(file, MrdStreamFile)
        assert (file.n_acquisitions, file.n_waveforms) == (len(acquisitions()), 2)
        items = list(file.items())
        assert items == list(file.items())  # repeatedly
    readouts = acquisitions()
    assert items == [readouts[0], waveform(0), *readouts[1:], waveform(1)]
    assert all(item.data.flags.writeable for item in items)


def test_other_messages_are_counted(scan):
    image = ismrmrd.Image.from_array(np.ones((2, 3, 4), np.float32))
    configuration = [ConfigText("<configuration/>"), "a word"]
    others = [image, np.ones((2, 5), np.complex64), "another"]
    scan.write_bytes(stream(*configuration, parsed(), *others, *acquisitions()))
    with open_scan(scan) as file:
        assert list(file.items()) == acquisitions()
        assert file.left_out == {"CONFIG_DOCUMENT": 1, "TEXT": 2, "IMAGE": 1, "ARRAY": 1}


def cut(share: float):
    return lambda: whole_stream()[: int(share * len(whole_stream()))]


BAD_STREAMS = {
    "cut within an acquisition": (cut(0.6), ["truncated", "copy or convert"]),
    "cut within the header": (cut(0.01), ["truncated"]),
    "cut within a message's kind": (lambda: whole_stream()[:-1], ["truncated"]),
    "without its end": (
        lambda: whole_stream()[:-2],
        ["truncated", "after 12 acquisitions and waveforms"],
    ),
    "two scans": (lambda: whole_stream() * 2, ["bytes follow", "one scan per file"]),
    "two headers": (lambda: stream(parsed(), parsed(), *acquisitions()), ["2 ISMRMRD headers"]),
    "no header": (lambda: stream(*acquisitions()), ["no ISMRMRD header"]),
    "garbage after the header": (
        lambda: stream(parsed(), close=False) + b"\xff" * 100,
        ["unknown message identifier 65535", "not an ISMRMRD stream"],
    ),
    "an endless acquisition": (
        lambda: stream(parsed(), close=False) + struct.pack("<H", 1008) + b"\xff" * 400,
        ["truncated"],
    ),
    "an endless array": (
        lambda: stream(parsed(), close=False) + struct.pack("<HHHHQ", 1030, 5, 0, 1, 2**63),
        ["truncated"],
    ),
    "no scan at all": (lambda: stream(parsed()), ["no imaging acquisitions"]),
    "MRD 2": (lambda: b"yardl\x01\0\0\0{}", ["MRD version 2", "mrd_to_ismrmrd"]),
    "words": (lambda: b"This is a letter.", ["neither an HDF5 file nor an ISMRMRD stream"]),
    "noise": (
        lambda: np.random.default_rng(0).bytes(1000),
        ["neither an HDF5 file nor an ISMRMRD stream"],
    ),
    "zeros": (lambda: bytes(1000), ["neither an HDF5 file nor an ISMRMRD stream"]),
    "nothing": (lambda: b"", ["neither an HDF5 file nor an ISMRMRD stream"]),
}


def replay(scan: Path, pipeline: object, *more: str) -> int:
    output = scan.parent / "maps"
    return main(["replay", str(scan), "--pipeline", str(pipeline), "-o", str(output), *more])


def image_sum(scan: Path) -> float:
    dataset = ismrmrd.Dataset(str(scan.parent / "maps/mrd.h5"), mode="r")
    value = float(dataset.read_image("image_7", 0).data[0, 0, 0, 0])
    dataset.close()
    return value


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_invalid_stream_is_refused_in_one_line(name, scan, small_pipeline, capsys):
    make, words = BAD_STREAMS[name]
    scan.write_bytes(make())
    assert replay(scan, small_pipeline) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert not (scan.parent / "maps").exists()


def test_replay_of_a_stream_equals_that_of_hdf5(scan, small_pipeline):
    scan.write_bytes(whole_stream())
    assert replay(scan, small_pipeline) == 0
    assert image_sum(scan) == pytest.approx(expected_sum(2), rel=1e-5)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8-sig", "utf-32"])
@pytest.mark.parametrize("end", [b"", b"\0", b"\0\0"])
def test_header_in_any_encoding_reaches_the_gadgets(encoding, end, scan, small_pipeline):
    document = header().replace("?>", f' encoding="{encoding[:6].upper()}"?>', 1).encode(encoding)
    if encoding.endswith("le"):
        document = b"\xff\xfe" + document
    scan.write_bytes(header_message(document + end) + stream(*acquisitions()))
    assert replay(scan, small_pipeline) == 0
    kept = ismrmrd.Dataset(str(scan.parent / "maps/mrd.h5"), mode="r")
    assert ismrmrd.xsd.CreateFromDocument(kept.read_xml_header()) == parsed()
    kept.close()


def move(path: Path, name: str) -> Path:
    with h5py.File(path, "r+") as file:
        file.move("dataset", name)
    return path


@pytest.mark.parametrize("name", ["scan_1", "study/measurement/raw"])
def test_only_group_with_a_scan_is_read(name, scan, small_pipeline):
    move(write_scan(scan), name)
    with h5py.File(scan, "r+") as file:  # another group, which is not a scan
        file.create_group("notes")["data"] = np.zeros(3)
    assert replay(scan, small_pipeline) == 0
    assert image_sum(scan) == pytest.approx(expected_sum(2), rel=1e-5)


def two_groups(path: Path) -> Path:
    write_scan(path)
    with h5py.File(path, "r+") as file:
        file.copy("dataset", "more/second")
        del file["more/second/data"]
        file["more/second"].create_dataset("data", data=file["dataset/data"][:6])
    return path


def test_one_of_several_groups_must_be_selected(scan, small_pipeline, capsys):
    two_groups(scan)
    assert replay(scan, small_pipeline) == 2
    message = capsys.readouterr().err
    for word in ("dataset (10 acquisitions)", "more/second (6 acquisitions)", "--group"):
        assert word in message
    assert replay(scan, small_pipeline, "--group", "more/second", "--overwrite") == 0
    four = sum(float(np.abs(a.data).sum()) for a in acquisitions()[2:6])
    assert image_sum(scan) == pytest.approx(2 * four, rel=1e-5)
    assert replay(scan, small_pipeline, "--group", "dataset", "--overwrite") == 0
    assert image_sum(scan) == pytest.approx(expected_sum(2), rel=1e-5)
    assert replay(scan, small_pipeline, "--group", "third", "--overwrite") == 2
    message = capsys.readouterr().err
    for word in ("group 'third' does not exist", "dataset, more/second"):
        assert word in message


def test_stream_has_no_groups(scan):
    scan.write_bytes(whole_stream())
    with pytest.raises(Mri2QmapError, match=r"group dataset: .*no groups"):
        open_scan(scan, "dataset")


def links(file: h5py.File) -> None:
    file["nowhere"] = h5py.SoftLink("/gone")
    file["away"] = h5py.ExternalLink("gone.h5", "/dataset")
    file["dataset/again"] = file["dataset"]  # a circle
    file["dataset/waveforms_of_others"] = h5py.SoftLink("/gone")


def test_broken_and_circular_links_are_ignored(scan):
    write_scan(scan)
    with h5py.File(scan, "r+") as file:
        links(file)
    with open_scan(scan) as opened:
        assert isinstance(opened, MrdFile)
        assert list(opened.items()) == acquisitions()


def as_fixed_length(document: bytes) -> np.ndarray:
    return np.array([document], dtype=f"S{len(document)}")


def as_bytes(document: bytes) -> np.ndarray:
    return np.frombuffer(document, np.uint8)


@pytest.mark.parametrize("store", [as_fixed_length, as_bytes])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_header_may_be_stored_as_any_type_of_text(store, encoding, scan):
    write_scan(scan)
    with h5py.File(scan, "r+") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = store(header().encode(encoding))
    with open_scan(scan) as opened:
        assert opened.header == header().encode()


def test_mrd_2_in_hdf5_is_reported(scan):
    with h5py.File(scan, "w") as file:
        file.create_group("Mrd")["$yardl_schema"] = "{}"
    with pytest.raises(Mri2QmapError, match="MRD version 2"):
        open_scan(scan)


def test_invalid_header_is_refused_before_connecting(scan, capsys):
    write_scan(scan, header(tr="12000"))
    assert replay(scan, "svdmrf", "--server", "localhost:1") == 2  # no server listens on this port
    assert "is it in microseconds?" in capsys.readouterr().err
    assert not (scan.parent / "maps").exists()
