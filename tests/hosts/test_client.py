"""The client with the stand-alone server, and with servers that violate the protocol."""

import io
import json
import re
import socket
import struct
import threading
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from helpers.live import CLOSE, DEADLINE, counted, scan_server
from helpers.scans import (
    GROUPS,
    acquisitions,
    expected_sum,
    external,
    header,
    noise_scan,
    pipeline_xml,
    readout,
    truncate,
    with_trajectory,
    write_scan,
)
from helpers.server_side import message as item_bytes
from helpers.waiting import Clock

from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.quantity import Quantity
from mri2qmap.export.series_identity import Form, series_index
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.hosts import client
from mri2qmap.hosts.client import OWN_OPTIONS, RemoteReconstruction, paced
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import ConfigDocument
from mri2qmap.pipeline.items import DicomObject
from mri2qmap.pipeline.pipeline_file import pipeline_document, read_pipeline
from mri2qmap.pipeline.scan_header import ScanInfo

pytestmark = pytest.mark.usefixtures("maps_pipeline")
OF_T1, OF_T2, OF_PD = (
    series_index(quantity, Form.FLOAT, "MRI2Qmap", 100)
    for quantity in (Quantity.T1, Quantity.T2, Quantity.PROTON_DENSITY)
)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scan.h5")


def replay(scan: Path, port: int, pipeline: object, *more: str) -> int:
    output = scan.parent / "maps"
    server = ["--server", f"127.0.0.1:{port}"]
    chosen = [] if pipeline is None else ["--pipeline", str(pipeline)]
    return main(["replay", str(scan), *server, *chosen, "-o", str(output), *more])


def test_maps_and_record_are_received(scan, maps_pipeline, capsys):
    with scan_server() as listener:
        assert replay(scan, listener.port, maps_pipeline) == 0
    assert "maps received" in capsys.readouterr().out
    folder = scan.parent / "maps"
    assert (folder / "dicom" / "T1map" / "0001.dcm").is_file()
    with ismrmrd.Dataset(str(folder / "mrd.h5"), create_if_needed=False) as file:
        image = file.read_image(f"image_{OF_PD}", 0)
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)
    record = json.loads((folder / "run.json").read_text())
    assert record["server"] == f"127.0.0.1:{listener.port}"
    assert record["configuration"] == str(maps_pipeline)
    assert record["command"][:2] == ["mri2qmap", "replay"]
    assert record["written"] == {"mrd": 4, "dicom": 4 * 8}
    assert 0 <= record["last_acquisition_to_first_map_s"] < DEADLINE
    names = [gadget["name"] for gadget in record["at_server"]["gadgets"]]
    assert names == ["coil_sensitivity", "combined_matching", "parametric_maps"]
    assert any("noise scans: 2" in line for line in record["log"])


def test_settings_can_be_changed(scan, maps_pipeline):
    with scan_server() as listener:
        code = replay(scan, listener.port, maps_pipeline, "--set", "coil_sensitivity.factor=7")
    assert code == 0
    record = json.loads((scan.parent / "maps" / "run.json").read_text())
    assert record["at_server"]["gadgets"][0]["settings"]["factor"] == 7


def refusal(capsys) -> str:
    return capsys.readouterr().err


def test_error_of_the_server_is_reported(scan, tmp_path, capsys):
    path = tmp_path / "fails.xml"
    node = external("coil_sensitivity", fail_with="bug")
    path.write_text(pipeline_xml(node, external("parametric_maps")))
    with scan_server() as listener:
        assert replay(scan, listener.port, path) == 2
    assert "gadget coil_sensitivity failed: ZeroDivisionError" in refusal(capsys)
    assert not (tmp_path / "maps").exists()


def test_client_ends_at_an_error_although_the_server_works_on():
    """A Gadgetron server closes only when all of its nodes have ended."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(counted(5, b"MRI2Qmap error: gadget pnp_admm: coupling must be positive\n"))
        peer = MessageSocket(ours)
        remote = RemoteReconstruction(peer, ConfigDocument(b"<x/>"), header().encode())
        with pytest.raises(Mri2QmapError, match=r"server reports: .*coupling must be positive"):
            list(remote.run(acquisitions()))


def test_a_scan_is_checked_before_a_server_is_asked(tmp_path, maps_pipeline, capsys):
    scan = write_scan(tmp_path / "scan.h5", data=with_trajectory(lambda k: 3 * k))
    nobody = 1
    assert replay(scan, nobody, maps_pipeline) == 2
    assert "more than 0.5" in refusal(capsys)
    assert replay(scan, nobody, "svdmrf") == 2  # has more coefficients than the scan frames
    error = refusal(capsys)
    assert "the first of at least 2 problems; mri2qmap validate lists all" in error
    assert not (tmp_path / "maps").exists()


def test_a_scan_for_gadgets_of_others_is_checked_by_the_server(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5", data=with_trajectory(lambda k: 3 * k))
    site = tmp_path / "site.xml"
    site.write_text(pipeline_xml("<gadget><name>Crop</name></gadget>"))
    for more in (["--configuration", "of_the_site"], ["--pipeline", str(site)]):
        assert replay(scan, 1, None, *more) == 2
        assert "no server is listening" in refusal(capsys)


def test_wrong_settings_of_a_pipeline_are_told_before_a_server_is_asked(scan, capsys):
    assert replay(scan, 1, "svdmrf", "--set", "subspace_compression.coefficients=many") == 2
    assert "coefficients" in refusal(capsys)


def test_warnings_of_the_checks_are_logged_at_the_client(tmp_path, maps_pipeline, caplog):
    grid = re.sub("(?<=<trajectory>)[a-z]+", "cartesian", header())
    scan = write_scan(tmp_path / "scan.h5", grid)
    with scan_server() as listener:
        assert replay(scan, listener.port, maps_pipeline) == 0
    own = [r.message for r in caplog.records if r.name == "mri2qmap.validation.examination"]
    assert len(own) == 1
    assert "encoding.trajectory is cartesian" in own[0]


def test_damaged_file_is_reported(scan, maps_pipeline, capsys):
    truncate(scan)
    with scan_server() as listener:
        assert replay(scan, listener.port, maps_pipeline) == 2
    assert "truncated" in refusal(capsys)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--configuration", "a.xml", "--set", "pnp_admm.seed=1"], "give one or the other"),
        (["--configuration", "a.xml", "--pipeline", "mri2qmap"], "give one or the other"),
        (["--set", "pnp_admm.seed=1"], "cannot be changed"),
        (["--realtime"], "the same time stamp"),
        (["--device", "cpu"], "--device is set on the server: mri2qmap serve --device"),
        (["--threads", "1"], "--threads is set on the server: mri2qmap serve --threads"),
        (["--memory", "1"], "--memory is set on the server: mri2qmap serve --memory"),
        (["--tick", "5"], "--tick needs --realtime"),
        (["--realtime", "--tick", "0"], "positive number of ms"),
        (["--realtime", "--tick", "nan"], "positive number of ms"),
    ],
)
def test_invalid_options_are_refused(scan, maps_pipeline, capsys, more, words):
    with scan_server() as listener:
        assert replay(scan, listener.port, maps_pipeline, *more) == 2
    assert words in refusal(capsys)


def test_unknown_configuration_is_refused(scan, capsys):
    with scan_server() as listener:
        assert replay(scan, listener.port, None, "--configuration", "nope.xml") == 2
    assert "there is no pipeline 'nope.xml'" in refusal(capsys)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":9002", "localhost:x", "a:99999"])
def test_invalid_address_is_refused(scan, maps_pipeline, capsys, address):
    arguments = ["replay", str(scan), "-p", str(maps_pipeline), "-o", str(scan.parent / "maps")]
    assert main([*arguments, "--server", address]) == 2
    assert "HOST:PORT is expected" in refusal(capsys)


def test_server_options_need_a_server(scan, maps_pipeline, capsys):
    arguments = ["replay", str(scan), "-p", str(maps_pipeline), "-o", str(scan.parent / "maps")]
    assert main([*arguments, "--realtime"]) == 2
    assert "need --server" in refusal(capsys)


def test_no_server_is_listening(scan, maps_pipeline, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert replay(scan, port, maps_pipeline, "--timeout", "0.3") == 2
    assert "no server is listening" in refusal(capsys)


class FaultyServer(threading.Thread):
    """A server that sends given bytes after it has read everything, or immediately."""

    def __init__(self, answer: bytes, read_all: bool = True) -> None:
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.answer, self.read_all = answer, read_all
        self.received = b""
        self.start()

    def run(self) -> None:
        connection, _ = self.server.accept()
        connection.settimeout(DEADLINE)
        with self.server, connection:
            while self.read_all and not self.received.endswith(CLOSE):
                self.received += connection.recv(2**16)
            connection.sendall(self.answer)


IMAGE = item_bytes(ismrmrd.Image(data=np.ones((1, 2, 2, 2), np.float32)))


@pytest.mark.parametrize(
    ("answer", "read_all", "words"),
    [
        (CLOSE, True, "without sending a map"),
        (counted(5, b"Not today\0") + CLOSE, True, "its last messages: Not today"),
        (b"", True, "disconnected before the end"),
        (b"", False, "disconnected before the end"),
        (IMAGE[:-3], True, "disconnected before the end"),
        (IMAGE, True, "disconnected before the end"),
        (counted(5, b"x MRI2Qmap error: gadget pnp_admm: no") + IMAGE + CLOSE, True, "pnp_admm"),
        (counted(5, b"MRI2Qmap error: no"), True, "the server reports: MRI2Qmap error: no"),
        (IMAGE + counted(5, b"[Connection Main Thread] ERROR: boom") + CLOSE, True, "boom"),
        (IMAGE + counted(5, b"ERROR    Traceback (most recent call last)") + CLOSE, True, "ERROR"),
        (struct.pack("<HQ", 8, 3) + b"why" + CLOSE, True, "why"),
        (struct.pack("<H", 999), True, "identifier 999"),
        (IMAGE + counted(3, b"<h/>") + CLOSE, True, "message of type Header"),
        (struct.pack("<HI", 1018, 2**32 - 1), True, "disconnected"),
        (counted(1018, b"no dicom") + bytes(16) + CLOSE, True, "DICOM that cannot be read"),
    ],
)
def test_faulty_server_is_an_error(scan, maps_pipeline, capsys, answer, read_all, words):
    server = FaultyServer(answer, read_all)
    assert replay(scan, server.port, maps_pipeline) == 2
    assert words in refusal(capsys)
    assert not (scan.parent / "maps").exists()
    server.join(DEADLINE)


@pytest.mark.parametrize(
    ("answer", "more", "words"),
    [
        (IMAGE + CLOSE, ["--pipeline", "svdmrf"], "images of T1map"),
        (IMAGE + CLOSE, ["--configuration", "svdmrf"], "images of T1map"),
        (IMAGE + CLOSE, ["--configuration", "of_the_site"], "images of T1map, T2map, PDmap are"),
    ],
)
def test_foreign_image_does_not_count_as_map(tmp_path, capsys, answer, more, words):
    data = [noise_scan(), *(readout(f, g) for g in range(GROUPS) for f in range(5))]
    scan = write_scan(tmp_path / "scan.h5", header(angles="10 20 30 40 50", limit=4), data)
    server = FaultyServer(answer)
    assert replay(scan, server.port, None, *more) == 2
    assert words in refusal(capsys)
    assert not (scan.parent / "maps").exists()
    server.join(DEADLINE)


def made(pipeline: Path) -> list:
    """Output of the gadgets of a pipeline for the scan, as sent by a server."""
    info = ScanInfo.from_header(header())
    items = InProcessHost(read_pipeline(pipeline), info).run(acquisitions())
    return [item for item in items if isinstance(item, ismrmrd.Image | DicomObject)]


def wire(items: list) -> bytes:
    """Items and texts, serialised."""
    parts = []
    for item in items:
        if isinstance(item, str):
            parts.append(counted(5, item.encode()))
        elif isinstance(item, DicomObject):
            content = io.BytesIO()
            item.dataset.save_as(content, enforce_file_format=True)
            name = item.path.encode()
            parts.append(counted(1018, content.getvalue()))
            parts.append(struct.pack("<Q", len(name)) + name + struct.pack("<Q", 0))
        else:
            parts.append(item_bytes(item))
    return b"".join(parts)


def altered(item: ismrmrd.Image, change) -> ismrmrd.Image:
    return ismrmrd.Image(
        head=item.getHead(), data=change(item.data).astype(item.data.dtype), meta=item.meta
    )


def with_map(index: int, change):
    """Change the image of one map."""

    def apply(items: list) -> list:
        return [
            altered(item, change) if getattr(item, "image_series_index", 0) == index else item
            for item in items
        ]

    return apply


def dropped(words: str):
    """Drop images and files with the given text in their description or path."""

    def name(item) -> str:
        return item.path if isinstance(item, DicomObject) else item.meta["SeriesDescription"]

    return lambda items: [item for item in items if words not in name(item)]


STRANGER = ismrmrd.Image(data=np.full((1, 2, 2, 2), np.nan, np.float32))
TWICE = "the server sent an image twice: it is kept once"
GADGETRON_ERROR = "[Connection Main Thread/Stream/external] ERROR: Errors received: \nno memory\n"
PYTHON_ERROR = (
    "ERROR    Traceback (most recent call last):\n"
    '  File "invertcontrast.py", line 88, in process\nValueError: no k-space\n'
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda items: [STRANGER], "float images of T1map, T2map, PDmap, matchquality are missing"),
        (dropped("T2"), "float images of T2map are missing"),
        (dropped("PD"), "float images of PDmap are missing"),
        (with_map(OF_T1, lambda data: data * np.nan), "T1map has 512 of 512 values that are not"),
        (with_map(OF_T2, lambda data: 0 * data), "T2map is zero everywhere"),
        (lambda items: [*items, *with_map(OF_T1, lambda d: d + 1)(items[:-1])], "same name"),
        (
            lambda items: [*items, *with_map(OF_PD, lambda d: d + 1)(items)[-2:]],
            "two different float images of PDmap",
        ),
        (dropped("T1map/0003"), "DICOM objects are missing of T1map (7 of 8)"),
        (lambda items: [*items, GADGETRON_ERROR], "ERROR: Errors received: no memory"),
        (lambda items: [*items, PYTHON_ERROR], "reports: ValueError: no k-space"),
        (lambda items: [*items, "MRI2Qmap error: gadget pnp_admm: no"], "gadget pnp_admm: no"),
        (lambda items: [*items, "\x1b[31mMRI2Qmap error: red"], r"\x1b[31mMRI2Qmap error: red"),
    ],
)
def test_incomplete_maps_are_an_error(scan, maps_pipeline, capsys, change, words):
    server = FaultyServer(wire(change(made(maps_pipeline))) + CLOSE)
    assert replay(scan, server.port, maps_pipeline) == 2
    said = refusal(capsys)
    assert words in said
    assert said.count("\n") == 1
    assert not list(scan.parent.glob("*maps"))
    server.join(DEADLINE)


def test_maps_without_close_are_an_error(scan, maps_pipeline, capsys):
    """Servers send errors last, so images without a CLOSE message are not valid."""
    server = FaultyServer(wire(made(maps_pipeline)))
    assert replay(scan, server.port, maps_pipeline) == 2
    assert "before the end of the reconstruction" in (said := refusal(capsys))
    assert "36 images and files were received" in said
    assert not (scan.parent / "maps").exists()
    server.join(DEADLINE)


def test_close_before_the_end_of_the_scan_is_an_error(maps_pipeline):
    server = FaultyServer(wire(made(maps_pipeline)) + CLOSE, read_all=False)

    def endless():
        while True:
            yield from acquisitions()

    remote = RemoteReconstruction(
        connect("127.0.0.1", server.port),
        ConfigDocument(maps_pipeline.read_bytes()),
        header().encode(),
    )
    with pytest.raises(Mri2QmapError, match="before it had received the whole scan"):
        list(remote.run(endless()))
    server.join(DEADLINE)


def test_invalid_record_is_reported(scan, maps_pipeline, capsys):
    for record, words in ((b"{", "cannot be read"), (b"[]", "not a JSON object")):
        server = FaultyServer(wire(made(maps_pipeline)) + counted(2006, record) + CLOSE)
        assert replay(scan, server.port, maps_pipeline) == 2
        assert words in refusal(capsys)
        server.join(DEADLINE)


@pytest.mark.parametrize("chosen", ["pipeline", "configuration"])
def test_foreign_and_repeated_images_are_accepted(scan, maps_pipeline, chosen):
    items = made(maps_pipeline)
    images = [item for item in items if isinstance(item, ismrmrd.Image)]
    hints = ["WARNING  coil 3 is weak", "2 errors were corrected"]
    server = FaultyServer(wire([STRANGER, *hints, *items, images[0]]) + CLOSE)
    more = ["--configuration", "of_the_site"] if chosen == "configuration" else []
    assert replay(scan, server.port, None if more else maps_pipeline, *more) == 0
    with ismrmrd.Dataset(str(scan.parent / "maps" / "mrd.h5"), create_if_needed=False) as file:
        assert file.number_of_images(f"image_{OF_T1}") == 1
        assert file.number_of_images("image_0") == 1
    record = json.loads((scan.parent / "maps" / "run.json").read_text())
    assert record["written"] == {"mrd": 5, "dicom": 32}
    said = [line.partition(" ")[2] for line in record["log"]]
    assert said[:3] == ["server: WARNING  coil 3 is weak", "server: 2 errors were corrected", TWICE]
    assert said[3].startswith("no NIfTI is made")
    server.join(DEADLINE)


@pytest.mark.parametrize("complete", [True, False])
def test_slices_form_maps_when_complete(scan, maps_pipeline, capsys, complete):
    more = {"parametric_maps": {"mrd_layout": "slices", "dicom": "none", "mrd": "uint16"}}
    changed = scan.parent / "slices.xml"
    changed.write_bytes(pipeline_document(maps_pipeline, more))
    items = made(changed)
    assert len(items) == 4 * 8
    server = FaultyServer(wire(items if complete else items[1:]) + CLOSE)
    assert replay(scan, server.port, changed) == (0 if complete else 2)
    assert ("missing: 0" in refusal(capsys)) != complete
    server.join(DEADLINE)


def test_pipeline_without_server_output_is_refused_before_sending(scan, maps_pipeline, capsys):
    nothing = ["--set", "parametric_maps.mrd=none", "--set", "parametric_maps.dicom=none"]
    assert replay(scan, 1, maps_pipeline, *nothing) == 2  # no server listens on this port
    assert "a server has nothing to send" in refusal(capsys)


def test_repeated_texts_of_a_server_are_summarised(scan, maps_pipeline, capsys):
    texts = [f"acquisition {number}: late\n" for number in range(127)]
    server = FaultyServer(wire([*texts, "all well\n\n", *made(maps_pipeline)]) + CLOSE)
    assert replay(scan, server.port, maps_pipeline, "-v") == 0
    shown = [line for line in refusal(capsys).splitlines() if line.startswith(("server:", "..."))]
    record = json.loads((scan.parent / "maps" / "run.json").read_text())
    rest = "... and 124 more similar lines, the last: "
    first = [f"acquisition {number}: late" for number in range(3)]
    assert shown == [
        *(f"server: {line}" for line in [*first, "all well"]),
        f"{rest}server: acquisition 126: late",
    ]
    assert [line.partition(" ")[2] for line in record["log"]][:5] == shown
    server.join(DEADLINE)


def test_bytes_sent_to_the_server(scan, maps_pipeline):
    server = FaultyServer(wire([*made(maps_pipeline), "words"]) + CLOSE)
    assert replay(scan, server.port, maps_pipeline) == 0
    with MrdFile(scan) as file:
        xml, items = file.header, list(file.items())
    expected = [
        counted(2, maps_pipeline.read_bytes()),
        counted(3, xml),
        counted(5, OWN_OPTIONS.encode()),
        *map(item_bytes, items),
        CLOSE,
    ]
    assert server.received == b"".join(expected)
    assert (scan.parent / "maps" / "dicom" / "T2map" / "0008.dcm").is_file()


def stamped(*stamps: int) -> list[ismrmrd.Acquisition]:
    items = [readout(0, 0) for _ in stamps]
    for item, stamp in zip(items, stamps, strict=True):
        item.acquisition_time_stamp = stamp
    return items


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(client, "time", clock)
    return clock


def test_items_are_paced_by_time_stamps(clock):
    wave = ismrmrd.Waveform.from_array(np.zeros((1, 4), np.uint32))
    first, second, third = stamped(100, 101, 103)
    start = clock.now
    times = [clock.now - start for _ in paced([first, wave, second, third], 0.05)]
    assert times == pytest.approx([0, 0, 0.05, 0.15])


def test_a_source_that_is_late_is_not_waited_for(clock):
    def late():
        for item in stamped(100, 101, 110):
            clock.sleep(0.2)
            yield item

    start = clock.now
    times = [clock.now - start for _ in paced(late(), 0.05)]
    assert times == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize(
    ("stamps", "words"), [((5, 5, 5), "the same time stamp"), ((5, 7, 6), "its time stamp is 6")]
)
def test_invalid_time_stamps_are_refused(stamps, words):
    with pytest.raises(Mri2QmapError, match=words):
        list(paced(stamped(*stamps), 1e-4))


def test_realtime_replay_takes_the_time_of_the_scan(tmp_path, maps_pipeline, clock):
    items = acquisitions()
    for number, item in enumerate(items):
        item.acquisition_time_stamp = 1000 + number
    scan = write_scan(tmp_path / "scan.h5", header(), items)
    with scan_server() as listener:
        code = replay(scan, listener.port, maps_pipeline, "--realtime", "--tick", "50")
    assert code == 0
    record = json.loads((tmp_path / "maps" / "run.json").read_text())
    assert record["last_acquisition_s"] == pytest.approx(0.05 * (len(items) - 1))


@pytest.mark.parametrize("server", ["ours", "images only"])
@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({"dicom": "none", "nifti": "false"}, {"mrd": 7}),
        ({"dicom": "none"}, {"mrd": 7, "nifti": 7}),
        ({"dicom": "classic", "nifti": "false"}, {"mrd": 7, "dicom": 56}),
    ],
)
def test_folder_contains_the_outputs_of_the_pipeline(
    scan, maps_pipeline, server, settings, written
):
    changed = scan.parent / "changed.xml"
    more = {"parametric_maps": {"synthetic_images": "true", **settings}}
    changed.write_bytes(pipeline_document(maps_pipeline, more))
    if server == "ours":
        with scan_server() as listener:
            assert replay(scan, listener.port, changed) == 0
    else:
        images = [item for item in made(changed) if isinstance(item, ismrmrd.Image)]
        relay = FaultyServer(wire(images) + CLOSE)
        assert replay(scan, relay.port, changed) == 0
        relay.join(DEADLINE)
    record = json.loads((scan.parent / "maps" / "run.json").read_text())
    assert record["written"] == written
