"""The stand-alone server, tested with raw messages."""

import dataclasses
import json
import os
import resource
import socket
import struct
import threading

import ismrmrd
import numpy as np
import pytest
from helpers.live import (
    CLOSE,
    DEADLINE,
    counted,
    data,
    dial,
    opening,
    receive_all,
    scan_server,
)
from helpers.scans import (
    COILS,
    acquisitions,
    expected_sum,
    external,
    header,
    pipeline_xml,
    readout,
    with_trajectory,
)
from helpers.server_side import message as item_bytes
from helpers.waiting import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import message_socket
from mri2qmap.hosts.error_text import ERROR_PREFIX
from mri2qmap.hosts.listener import Listener
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import DicomFile, Record, Response, Text
from mri2qmap.pipeline import pipeline_file as pipeline_module
from mri2qmap.pipeline.memory_budget import ALWAYS_RECEIVED, MemoryBudget
from mri2qmap.pipeline.memory_plan import planned_bytes, with_channels
from mri2qmap.pipeline.pipeline_file import GadgetNode
from mri2qmap.pipeline.scan_header import ScanInfo

pytestmark = pytest.mark.usefixtures("fake_gadgets")

PIPELINE = pipeline_xml(
    external("coil_sensitivity", factor=2), external("parametric_maps")
).encode()
NODES = [GadgetNode(n, lambda *_: iter(()), None) for n in ("coil_sensitivity", "parametric_maps")]


@pytest.fixture(scope="module")
def server():
    with scan_server() as listener:
        yield listener


def ask(listener: Listener, *parts: bytes) -> list:
    with dial(listener) as connection:
        connection.sendall(b"".join(parts))
        return receive_all(connection)


def texts(answer: list) -> list[str]:
    return [m.text for m in answer if isinstance(m, Text)]


def failure(answer: list) -> str:
    """Return the only error of an answer without maps."""
    assert not any(isinstance(m, ismrmrd.Image | DicomFile) for m in answer)
    failures = [text for text in texts(answer) if ERROR_PREFIX in text]
    assert len(failures) == 1
    return failures[0]


def check_reconstruction(listener: Listener) -> None:
    """Check that a scan is reconstructed."""
    images = [m for m in ask(listener, opening(PIPELINE), data(), CLOSE) if hasattr(m, "meta")]
    (image,) = (m for m in images if isinstance(m, ismrmrd.Image))
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)


def test_pipeline_determines_whether_incomplete_scans_are_accepted(server):
    lost = b"".join(map(item_bytes, acquisitions()[:-1]))
    assert "frame 3 missing" in failure(ask(server, opening(PIPELINE), lost, CLOSE))
    gain = external("coil_sensitivity", incomplete="warn")
    lenient = pipeline_xml(gain, external("parametric_maps")).encode()
    answer = ask(server, opening(lenient), lost, CLOSE)
    assert any(isinstance(m, ismrmrd.Image) for m in answer)
    assert any("the scan is incomplete: frame 3 missing" in text for text in texts(answer))


def test_scan_returns_images_dicom_and_progress(server):
    answer = ask(server, opening(PIPELINE), data(), CLOSE)
    (image,) = (m for m in answer if isinstance(m, ismrmrd.Image))
    (dicom,) = (m for m in answer if isinstance(m, DicomFile))
    assert image.image_series_index == 7
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)
    assert dicom.name == "sum/0001.dcm"
    assert dicom.content[128:132] == b"DICM"
    assert all(text.startswith("MRI2Qmap: ") for text in texts(answer))
    assert any("4 frames, matrix 8 x 8 x 8" in text for text in texts(answer))
    assert not any(isinstance(m, Record) for m in answer)


def test_a_scan_may_come_in_pieces_and_with_waveforms(server, monkeypatch):
    monkeypatch.setattr(message_socket, "_CHUNK", 5)
    wave = item_bytes(ismrmrd.Waveform.from_array(np.zeros((1, 4), np.uint32)))
    answer = ask(server, opening(PIPELINE), wave, data(), CLOSE)
    assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1


@pytest.mark.parametrize(
    ("end", "said"), [("\0", b""), ("", counted(5, b'{"parameters": {"customconfig": ""}}\0'))]
)
def test_other_clients_receive_no_dicom(server, end, said):
    answer = ask(server, opening(PIPELINE, header() + end), said, data(), CLOSE)
    assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1
    assert not any(isinstance(m, DicomFile) for m in answer)
    assert not any(ERROR_PREFIX in text for text in texts(answer))


@pytest.mark.parametrize(("dicom", "record"), [(True, True), (False, True), (True, False)])
def test_client_options(server, dicom, record):
    said = counted(5, json.dumps({"mri2qmap": {"dicom": dicom, "record": record}}).encode())
    answer = ask(server, opening(PIPELINE), said, data(), CLOSE)
    assert any(isinstance(m, DicomFile) for m in answer) == dicom
    records = [json.loads(m.text) for m in answer if isinstance(m, Record)]
    assert bool(records) == record
    if record:
        (found,) = records
        assert [g["name"] for g in found["gadgets"]] == ["coil_sensitivity", "parametric_maps"]
        assert found["gadgets"][0]["settings"]["factor"] == 2
        assert 0 <= found["last_acquisition_to_first_map_s"] < DEADLINE


def test_unknown_client_option_is_refused(server):
    said = counted(5, b'{"mri2qmap": {"dicon": true}}')
    assert 'did you mean "dicom"' in failure(ask(server, opening(PIPELINE), said, data(), CLOSE))


def test_queries_are_answered_at_any_time(server):
    def query(number: int, text: bytes) -> bytes:
        return struct.pack("<HQQQ", 6, 0, number, len(text)) + text

    answer = ask(
        server,
        query(1, b"gadgetron::info"),
        opening(PIPELINE),
        query(2, b"weather"),
        data(),
        CLOSE,
    )
    responses = {m.number: m.text for m in answer if isinstance(m, Response)}
    assert responses[1].startswith("MRI2Qmap ")
    assert responses[2] == "Unknown query"


def test_pipeline_is_found_by_name(server, tmp_path, monkeypatch):
    (tmp_path / "toy.xml").write_bytes(PIPELINE)
    monkeypatch.setattr(pipeline_module, "pipeline_folders", lambda: (tmp_path,))
    name = struct.pack("<H", 1) + b"toy.xml".ljust(1024, b"\0")
    answer = ask(server, name, opening(b"")[6:], data(), CLOSE)
    assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1


def test_immediate_close_is_not_an_error(server):
    assert ask(server, CLOSE) == []


HEADER = header().encode()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([counted(3, HEADER), data(), CLOSE], ["first message must be", "Header arrived"]),
        ([data(), CLOSE], ["first message must be", "Acquisition arrived"]),
        ([counted(2, PIPELINE), data(), CLOSE], ["header is expected", "Acquisition arrived"]),
        ([counted(2, PIPELINE), CLOSE], ["header is expected", "Close arrived"]),
        ([opening(PIPELINE), counted(3, HEADER), CLOSE], ["within the scan", "Header arrived"]),
        ([opening(PIPELINE), counted(2, PIPELINE), CLOSE], ["Use one connection for each scan"]),
        ([opening(b"<a/>"), data(), CLOSE], ["configuration", "<a>"]),
        ([opening(PIPELINE, "<x/>"), data(), CLOSE], ["ISMRMRD header", "<ismrmrdHeader>"]),
        ([opening(PIPELINE, ""), data(), CLOSE], ["ISMRMRD header"]),
        (
            [opening(PIPELINE.replace(b"factor", b"factr")), data(), CLOSE],
            ["coil_sensitivity", 'did you mean "factor"'],
        ),
        (
            [opening(PIPELINE.replace(b'target="coil_sensitivity"', b'target="system"')), CLOSE],
            ['gadget "system" is not known'],
        ),
        (
            [struct.pack("<H", 1) + b"../../etc/passwd".ljust(1024, b"\0"), CLOSE],
            ["there is no pipeline '../../etc/passwd'", "mri2qmap"],
        ),
        ([opening(PIPELINE), CLOSE], ["no imaging acquisitions"]),
        (
            [opening(PIPELINE), data(with_trajectory(lambda k: 3 * k)), CLOSE],
            ["more than 0.5", "may be in"],
        ),
        ([opening(PIPELINE), struct.pack("<H", 999)], ["unknown identifier 999"]),
        ([opening(PIPELINE), data(), struct.pack("<HI", 5, 2**32 - 1)], ["4294967295 bytes"]),
        (
            [opening(PIPELINE), struct.pack("<HI", 1018, 0) + struct.pack("<Q", 2**40)],
            ["1099511627776 bytes"],
        ),
    ],
)
def test_invalid_input_is_reported_and_the_next_scan_works(server, sent, words):
    text = failure(ask(server, *sent))
    for word in words:
        assert word in text
    check_reconstruction(server)


@pytest.mark.parametrize("kind", ["user", "bug"])
def test_error_in_a_gadget_names_gadget_and_cause(server, kind):
    node = external("coil_sensitivity", fail_with=kind)
    document = pipeline_xml(node, external("parametric_maps")).encode()
    text = failure(ask(server, opening(document), data(), CLOSE))
    assert "gadget coil_sensitivity" in text
    assert ("cannot be amplified" if kind == "user" else "ZeroDivisionError") in text
    check_reconstruction(server)


def test_missing_maps_are_an_error(server):
    document = PIPELINE.replace(
        b'"parametric_maps" type="python"/><configuration>',
        b'"parametric_maps" type="python"/><configuration><property name="images" value="false"/>',
    )
    assert "no maps" in failure(ask(server, opening(document), data(), CLOSE))


OWN_IMAGE = item_bytes(ismrmrd.Image.from_array(np.full((8, 8, 8), 3, np.float32)))


@pytest.mark.parametrize("after", [False, True])
def test_images_of_a_client_are_no_results(server, after):
    sent = [data(), OWN_IMAGE] if after else [OWN_IMAGE, OWN_IMAGE, data()]
    answer = ask(server, opening(PIPELINE), *sent, CLOSE)
    (image,) = (m for m in answer if isinstance(m, ismrmrd.Image))
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)
    assert sum("ignored 1 image of" in text for text in texts(answer)) == after
    assert sum("ignored 2 images of" in text for text in texts(answer)) == (not after)


def test_images_of_a_client_do_not_hide_that_there_are_no_maps(server):
    nothing = external("parametric_maps", images="false", dicom="false")
    document = pipeline_xml(external("coil_sensitivity"), nothing).encode()
    assert "no maps" in failure(ask(server, opening(document), OWN_IMAGE, data(), CLOSE))
    assert "no imaging acq" in failure(ask(server, opening(PIPELINE), OWN_IMAGE, CLOSE))


def test_client_killed_within_a_scan(server):
    for stop in (1, 5, 600, len(opening(PIPELINE)) + 1000):
        with dial(server) as connection:
            connection.sendall((opening(PIPELINE) + data())[:stop])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    check_reconstruction(server)


def test_client_killed_while_waiting_ends_the_reconstruction(endless_maps):
    with scan_server() as listener:
        connection = dial(listener)
        connection.sendall(opening(PIPELINE) + data() + CLOSE)
        assert endless_maps.started.wait(DEADLINE)
        connection.close()
        assert endless_maps.ended.wait(DEADLINE)


def test_client_may_close_its_sending_half(server):
    with dial(server) as connection:
        connection.sendall(opening(PIPELINE) + data() + CLOSE)
        connection.shutdown(socket.SHUT_WR)
        answer = receive_all(connection)
    assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1


@pytest.mark.slow
def test_thousand_connections_leave_no_resources(server):
    check_reconstruction(server)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        with dial(server) as connection:
            if number % 3 == 1:
                connection.sendall(opening(PIPELINE)[: number % 200])
    check_reconstruction(server)
    eventually(lambda: threading.active_count() <= threads + 2, "threads remain")
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= files + 2, "open files remain")


def test_aborted_scans_do_not_leak_memory(server):
    long = item_bytes(readout(0, 0)) * 10_000  # 10 MB of a scan that breaks off
    content = opening(PIPELINE) + long
    check_reconstruction(server)
    before = None
    for _ in range(6):
        with dial(server) as connection:
            connection.sendall(content + struct.pack("<H", 999))
            failure(receive_all(connection))
        before = before or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20 * 1024  # kB; a leak would be 50 MB and more


WHOLE = opening(PIPELINE) + data() + CLOSE


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, len(WHOLE)), st.binary(max_size=40), st.booleans())
def test_garbage_ends_only_its_connection(server, start, patch, cut):
    content = WHOLE[:start] + patch + (b"" if cut else WHOLE[start + len(patch) :])
    with dial(server) as connection:
        connection.settimeout(DEADLINE)
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(2**16):  # until the server closes
            pass


def test_after_garbage_the_next_scan_check_reconstruction(server):
    check_reconstruction(server)


def test_simultaneous_scans_do_not_mix(server):
    factors = [1, 2, 3, 4]
    results: dict[int, float] = {}

    def scan(factor: int) -> None:
        document = PIPELINE.replace(b'value="2"', b'value="%d"' % factor)
        for answer in ask(server, opening(document), data(), CLOSE):
            if isinstance(answer, ismrmrd.Image):
                results[factor] = float(answer.data[0, 0, 0, 0])

    threads = [threading.Thread(target=scan, args=(factor,)) for factor in factors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {f: pytest.approx(expected_sum(f), rel=1e-5) for f in factors}


def test_scan_exceeding_the_memory_is_refused():
    with scan_server(MemoryBudget(2**20)) as listener:
        text = failure(ask(listener, opening(PIPELINE), data(), CLOSE))
    assert "GiB of memory" in text
    assert "coarser matrix" in text


def of_many_coils(samples: int) -> list[ismrmrd.Acquisition]:
    coils = 64
    kspace = np.ones((coils, samples), np.complex64)
    trajectory = np.linspace(0, [0.5, 0, 0], samples, dtype=np.float32)
    return [ismrmrd.Acquisition.from_array(kspace, trajectory)]


def test_memory_is_planned_for_the_coils_that_arrive():
    """The header does not tell their number."""
    xml = header(matrix="64 64 64", fov="220 220 220", angles="9 " * 500, limit=499)
    scan = dataclasses.replace(ScanInfo.from_header(xml), spare_memory=True)
    few, many = (planned_bytes(with_channels(scan, n), NODES) for n in (COILS, 64))
    assert many > few
    with scan_server(MemoryBudget(many - 1)) as listener:
        text = failure(ask(listener, opening(PIPELINE, xml), data(of_many_coils(1000)), CLOSE))
        assert "needs about" in text
        text = failure(ask(listener, opening(PIPELINE, xml), data(), CLOSE))
        assert "the scan is incomplete" in text


def test_a_scan_of_few_coils_is_served_although_as_many_as_assumed_would_not_fit():
    xml = header(matrix="64 64 64", fov="220 220 220", angles="9 " * 500, limit=499)
    scan = dataclasses.replace(ScanInfo.from_header(xml), spare_memory=True)
    few, assumed = (planned_bytes(with_channels(scan, n), NODES) for n in (COILS, None))
    assert few < assumed
    with scan_server(MemoryBudget(assumed - 1)) as listener:
        text = failure(ask(listener, opening(PIPELINE, xml), data(), CLOSE))
        assert "the scan is incomplete" in text


def test_a_first_acquisition_larger_than_what_may_come_before_the_plan_is_received():
    long = 2 * ALWAYS_RECEIVED // (8 * 64)
    with scan_server() as listener:
        text = failure(ask(listener, opening(PIPELINE), data(of_many_coils(long)), CLOSE))
    assert "the scan is incomplete" in text  # for 64 coils memory was planned


def test_scan_waits_for_memory():
    budget = MemoryBudget(2**30, patience=0)
    with scan_server(budget) as listener:
        with budget.share(2**30, "another scan"):
            text = failure(ask(listener, opening(PIPELINE), data(), CLOSE))
            assert "try again later" in text
        check_reconstruction(listener)


def test_port_in_use_is_reported(server):
    with pytest.raises(Mri2QmapError, match="cannot listen on"):
        Listener("127.0.0.1", server.port, lambda peer: None)


def test_stopping_server_finishes_running_scans():
    with scan_server() as listener:
        connection = dial(listener)
        connection.sendall(opening(PIPELINE))
        assert isinstance(MessageSocket(connection).receive(DEADLINE), Text)  # it is being served
        listener.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port), 1)
        connection.sendall(data() + CLOSE)
        answer = receive_all(connection)
        assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1
        assert listener.wait(DEADLINE)
        connection.close()
