"""The stand-alone server, spoken to byte by byte."""

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
from mri2qmap.hosts import server as server_module
from mri2qmap.hosts.error_text import MARK
from mri2qmap.hosts.listener import Listener
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import DicomFile, Record, Response, Text
from mri2qmap.pipeline import pipeline_file as pipeline_module
from mri2qmap.pipeline.memory_plan import MemoryBudget

pytestmark = pytest.mark.usefixtures("fake_gadgets")

PIPELINE = pipeline_xml(
    external("coil_sensitivity", factor=2), external("parametric_maps")
).encode()


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
    """The one error in an answer that has no maps."""
    assert not any(isinstance(m, ismrmrd.Image | DicomFile) for m in answer)
    failures = [text for text in texts(answer) if MARK in text]
    assert len(failures) == 1
    return failures[0]


def works(listener: Listener) -> None:
    """A scan gets its maps."""
    images = [m for m in ask(listener, opening(PIPELINE), data(), CLOSE) if hasattr(m, "meta")]
    (image,) = (m for m in images if isinstance(m, ismrmrd.Image))
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)


def test_the_pipeline_says_whether_incomplete_scans_are_taken(server):
    lost = b"".join(map(item_bytes, acquisitions()[:-1]))
    assert "frame 3 missing" in failure(ask(server, opening(PIPELINE), lost, CLOSE))
    gain = external("coil_sensitivity", incomplete="warn")
    lenient = pipeline_xml(gain, external("parametric_maps")).encode()
    answer = ask(server, opening(lenient), lost, CLOSE)
    assert any(isinstance(m, ismrmrd.Image) for m in answer)
    assert any("the scan is incomplete: frame 3 missing" in text for text in texts(answer))


def test_a_scan_gets_images_dicom_and_progress(server):
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
def test_a_client_of_another_kind_gets_no_dicom(server, end, said):
    answer = ask(server, opening(PIPELINE, header() + end), said, data(), CLOSE)
    assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1
    assert not any(isinstance(m, DicomFile) for m in answer)
    assert not any(MARK in text for text in texts(answer))


@pytest.mark.parametrize(("dicom", "record"), [(True, True), (False, True), (True, False)])
def test_a_client_may_wish(server, dicom, record):
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


def test_an_unknown_wish_is_refused(server):
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


def test_a_kept_pipeline_is_found_by_name(server, tmp_path, monkeypatch):
    (tmp_path / "toy.xml").write_bytes(PIPELINE)
    monkeypatch.setattr(pipeline_module, "pipeline_folders", lambda: (tmp_path,))
    name = struct.pack("<H", 1) + b"toy.xml".ljust(1024, b"\0")
    answer = ask(server, name, opening(b"")[6:], data(), CLOSE)
    assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1


def test_a_client_that_leaves_at_once_is_no_failure(server):
    assert ask(server, CLOSE) == []


HEADER = header().encode()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([counted(3, HEADER), data(), CLOSE], ["expected first", "Header arrived"]),
        ([data(), CLOSE], ["expected first", "Acquisition arrived"]),
        ([counted(2, PIPELINE), data(), CLOSE], ["header is expected", "Acquisition arrived"]),
        ([counted(2, PIPELINE), CLOSE], ["header is expected", "Close arrived"]),
        ([opening(PIPELINE), counted(3, HEADER), CLOSE], ["within the scan", "Header arrived"]),
        ([opening(PIPELINE), counted(2, PIPELINE), CLOSE], ["One connection is for one scan"]),
        ([opening(b"<a/>"), data(), CLOSE], ["configuration", "<a>"]),
        ([opening(PIPELINE, "<x/>"), data(), CLOSE], ["ISMRMRD header", "<x>"]),
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
            ["more than 0.5", "might be"],
        ),
        ([opening(PIPELINE), struct.pack("<H", 999)], ["unknown kind, id 999"]),
        ([opening(PIPELINE), data(), struct.pack("<HI", 5, 2**32 - 1)], ["4294967295 bytes"]),
        (
            [opening(PIPELINE), struct.pack("<HI", 1018, 0) + struct.pack("<Q", 2**40)],
            ["1099511627776 bytes"],
        ),
    ],
)
def test_what_is_wrong_is_told_and_the_next_scan_works(server, sent, words):
    text = failure(ask(server, *sent))
    for word in words:
        assert word in text
    works(server)


@pytest.mark.parametrize("kind", ["user", "bug"])
def test_an_error_in_a_gadget_names_gadget_and_cause(server, kind):
    node = external("coil_sensitivity", fail_with=kind)
    document = pipeline_xml(node, external("parametric_maps")).encode()
    text = failure(ask(server, opening(document), data(), CLOSE))
    assert "gadget coil_sensitivity" in text
    assert ("cannot be amplified" if kind == "user" else "ZeroDivisionError") in text
    works(server)


def test_no_maps_is_an_error_not_a_silent_success(server):
    document = PIPELINE.replace(
        b'"parametric_maps" type="python"/><configuration>',
        b'"parametric_maps" type="python"/><configuration><property name="images" value="false"/>',
    )
    assert "no maps" in failure(ask(server, opening(document), data(), CLOSE))


def test_a_client_that_is_killed_in_a_scan_does_no_harm(server):
    for stop in (1, 5, 600, len(opening(PIPELINE)) + 1000):
        with dial(server) as connection:
            connection.sendall((opening(PIPELINE) + data())[:stop])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    works(server)


def test_a_client_that_is_killed_while_it_waits_ends_the_work(endless_maps):
    with scan_server() as listener:
        connection = dial(listener)
        connection.sendall(opening(PIPELINE) + data() + CLOSE)
        assert endless_maps.started.wait(DEADLINE)
        connection.close()
        assert endless_maps.ended.wait(DEADLINE)


def test_a_client_may_close_its_half_and_still_listen(server):
    with dial(server) as connection:
        connection.sendall(opening(PIPELINE) + data() + CLOSE)
        connection.shutdown(socket.SHUT_WR)
        answer = receive_all(connection)
    assert sum(isinstance(m, ismrmrd.Image) for m in answer) == 1


def test_a_thousand_connections_opened_and_dropped(server):
    works(server)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        with dial(server) as connection:
            if number % 3 == 1:
                connection.sendall(opening(PIPELINE)[: number % 200])
    works(server)
    eventually(lambda: threading.active_count() <= threads + 2, "threads remain")
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= files + 2, "open files remain")


def test_memory_returns_to_its_level(server):
    long = item_bytes(readout(0, 0)) * 10_000  # 10 MB of a scan that breaks off
    content = opening(PIPELINE) + long
    works(server)
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
def test_garbage_ends_a_connection_and_nothing_else(server, start, patch, cut):
    content = WHOLE[:start] + patch + (b"" if cut else WHOLE[start + len(patch) :])
    with dial(server) as connection:
        connection.settimeout(DEADLINE)
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(2**16):  # until the server closes
            pass


def test_after_garbage_the_next_scan_works(server):
    works(server)


def test_two_scans_at_once_do_not_mix(server):
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


def test_what_does_not_fit_is_refused_with_the_reason():
    with scan_server(MemoryBudget(2**20)) as listener:
        text = failure(ask(listener, opening(PIPELINE), data(), CLOSE))
    assert "GiB of memory" in text
    assert "coarser matrix" in text


def test_what_does_not_fit_now_waits_for_its_turn():
    budget = MemoryBudget(2**30, patience=0)
    with scan_server(budget) as listener:
        with budget.share(2**30, "another scan"):
            text = failure(ask(listener, opening(PIPELINE), data(), CLOSE))
            assert "try again later" in text
        works(listener)


def test_a_client_that_says_nothing_is_left(monkeypatch):
    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT", 0.01)
    with scan_server() as listener, dial(listener) as connection:
        assert connection.recv(2) in (CLOSE, b"")


def test_a_port_in_use_is_told(server):
    with pytest.raises(Mri2QmapError, match="cannot be listened on"):
        Listener("127.0.0.1", server.port, lambda peer: None)


def test_a_server_that_stops_finishes_what_runs():
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
