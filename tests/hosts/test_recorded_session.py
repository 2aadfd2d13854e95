"""Recorded session of a real Gadgetron server (4.7.2), made by `record_session`."""

import io
import socket
import threading
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from helpers.live import CLOSE, DEADLINE, dial, receive_all, running_worker, scan_server
from helpers.scans import MATRIX, acquisitions, expected_sum, header

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.protocol import ConfigDocument, read_message

FOLDER = Path(__file__).parent / "recorded"
pytestmark = pytest.mark.usefixtures("fake_gadgets")


def recorded(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


def without_provenance(conversation: bytes) -> bytes:
    """Remove the provenance messages, which contain package versions."""
    stream = io.BytesIO(conversation)
    kept, start = b"", 0
    while start < len(conversation):
        message = read_message(stream)
        item = message.meta.get("mri2qmap_item") if isinstance(message, ismrmrd.Image) else None
        if item != "Provenance":
            kept += conversation[start : stream.tell()]
        start = stream.tell()
    return kept


@pytest.mark.parametrize("session", ["scan", "failure"])
@pytest.mark.parametrize("node", [0, 1])
def test_node_sends_the_recorded_answer(session, node):
    answer = b""
    with running_worker() as (listener, _), dial(listener) as connection:
        connection.sendall(recorded(f"{session}_to_node_{node}"))
        while not answer.endswith(CLOSE) and (more := connection.recv(2**16)):
            answer += more
        connection.shutdown(socket.SHUT_WR)
    answer = without_provenance(answer)
    before = without_provenance(recorded(f"{session}_from_node_{node}"))
    if (session, node) == ("failure", 1):  # without items, it now says so
        assert b"no item arrived" in answer
        return
    if (session, node) != ("scan", 1):
        assert answer == before
        return
    # The pixels are a sum, whose rounding errors depend on the processor.
    pixels = slice(-len(CLOSE) - 4 * MATRIX**3, -len(CLOSE))
    assert (answer[: pixels.start], answer[pixels.stop :]) == (
        before[: pixels.start],
        before[pixels.stop :],
    )
    found, expected = (np.frombuffer(content[pixels], np.float32) for content in (answer, before))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Recording(threading.Thread):
    """A server that receives a complete scan and then sends the recorded answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.answer = answer
        self.start()

    def run(self) -> None:
        connection, _ = self.server.accept()
        connection.settimeout(DEADLINE)
        with self.server, connection:
            taken = b""
            while not taken.endswith(CLOSE):
                taken += connection.recv(2**16)
            connection.sendall(self.answer)


def replay(session: str) -> list:
    server = Recording(recorded(f"{session}_to_client"))
    remote = RemoteReconstruction(
        connect("127.0.0.1", server.server.getsockname()[1]),
        ConfigDocument(b"<configuration/>"),
        header().encode(),
    )
    try:
        return list(remote.run(acquisitions()))
    finally:
        server.join(DEADLINE)


def check(images: list) -> None:
    (image,) = images
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)
    assert image.image_series_index == 7


def test_client_receives_the_maps():
    check(replay("scan"))


def test_client_reports_the_error():
    with pytest.raises(Mri2QmapError, match="gadget coil_sensitivity: this scan cannot be ampl"):
        replay("failure")


def test_stand_alone_server_accepts_the_recorded_scan():
    with scan_server() as listener, dial(listener) as connection:
        connection.sendall(recorded("scan_from_client"))
        check([m for m in receive_all(connection) if isinstance(m, ismrmrd.Image)])
