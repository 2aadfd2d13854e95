"""Bytes of every message, and refusal of invalid ones."""

import ctypes
import io
import socket
import struct
import threading
import weakref

import ismrmrd
import numpy as np
import pytest
from helpers.scans import readout
from helpers.server_side import message as server_message
from helpers.waiting import eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from mri2qmap.hosts import message_socket
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.message_encoding import encode_message
from mri2qmap.hosts.message_limits import Limits
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import (
    Close,
    ConfigDocument,
    ConfigFile,
    ConnectionEndedError,
    DicomFile,
    Failure,
    Header,
    ProtocolError,
    Query,
    Record,
    RelayedText,
    Response,
    Text,
    message_bytes,
    read_message,
)

DEADLINE = 20


class Bytes:
    """A source of given bytes that records the largest request."""

    def __init__(self, content: bytes) -> None:
        self.stream = io.BytesIO(content)
        self.largest = 0

    def read(self, n_bytes: int) -> bytearray:
        self.largest = max(self.largest, n_bytes)
        content = self.stream.read(n_bytes)
        if not content:
            raise ConnectionEndedError("nothing more")
        if len(content) < n_bytes:
            raise ConnectionError("too few")
        return bytearray(content)


def u(code: str, *values: int) -> bytes:
    return struct.pack("<" + code, *values)


def image(meta: dict[str, str] | None = None) -> ismrmrd.Image:
    data = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    result = ismrmrd.Image(data=data, meta=ismrmrd.Meta(meta or {}))
    result.image_series_index = 7
    return result


SIMPLE = [
    (ConfigFile("default.xml"), u("H", 1) + b"default.xml".ljust(1024, b"\0")),
    (ConfigDocument(b"<a/>"), u("HI", 2, 4) + b"<a/>"),
    (Header(b"<h/>"), u("HI", 3, 4) + b"<h/>"),
    (Header(b"<h/>", terminated=True), u("HI", 3, 5) + b"<h/>\0"),
    (Close(), u("H", 4)),
    (Text("T\u2081 map"), u("HI", 5, 8) + "T\u2081 map".encode()),
    (Query(9, "version"), u("HQQQ", 6, 0, 9, 7) + b"version"),
    (Response(9, "1.0"), u("HQQ", 7, 9, 3) + b"1.0"),
    (Failure("why"), u("HQ", 8, 3) + b"why"),
    (
        DicomFile(b"DICM", "a.dcm", "<m/>"),
        u("HI", 1018, 4) + b"DICM" + u("Q", 5) + b"a.dcm" + u("Q", 4) + b"<m/>",
    ),
    (RelayedText("hello"), u("HI", 2005, 5) + b"hello"),
    (Record("{}"), u("HI", 2006, 2) + b"{}"),
]


@pytest.mark.parametrize(("message", "expected"), SIMPLE, ids=lambda v: type(v).__name__)
def test_bytes_of_messages(message, expected):
    assert b"".join(encode_message(message)) == expected
    source = Bytes(expected)
    assert read_message(source) == message
    assert source.stream.read() == b""
    assert message_bytes(message) < 5000


def test_bytes_of_an_acquisition():
    acquisition = readout(1, 2)
    content = b"".join(encode_message(acquisition))
    assert content == server_message(acquisition)
    assert content[:2] == u("H", 1008)
    assert len(content) == 2 + 340 + acquisition.traj.nbytes + acquisition.data.nbytes
    assert content[342:].startswith(acquisition.traj.tobytes())
    assert content.endswith(acquisition.data.tobytes())
    received = read_message(Bytes(content))
    assert received == acquisition
    assert received.getHead() == acquisition.getHead()


def test_the_samples_of_an_acquisition_are_not_copied():
    acquisition = readout(1, 2)
    *_, trajectory, samples = encode_message(acquisition)
    assert np.shares_memory(np.frombuffer(trajectory, np.float32), acquisition.traj)
    assert np.shares_memory(np.frombuffer(samples, np.complex64), acquisition.data)


def test_acquisitions_without_trajectory_coils_or_samples():
    for shape in ((2, 5), (0, 5), (2, 0)):
        acquisition = ismrmrd.Acquisition.from_array(np.zeros(shape, np.complex64))
        received = read_message(Bytes(server_message(acquisition)))
        assert received.data.shape == shape
        assert received.traj.shape == (shape[1], 0)


@pytest.mark.parametrize("meta", [{}, {"ImageComment": "a < b", "n": "2"}])
def test_bytes_of_an_image(meta):
    sent = image(meta)
    content = b"".join(encode_message(sent))
    assert content == server_message(sent)
    assert content.endswith(sent.data.tobytes())
    received = read_message(Bytes(content))
    assert received.data.dtype == np.float32
    np.testing.assert_array_equal(received.data, sent.data)
    assert received.image_series_index == 7
    assert dict(received.meta) == meta
    received.data[:] += 1  # the array is writable


def test_bytes_of_a_waveform():
    wave = ismrmrd.Waveform.from_array(np.arange(6, dtype=np.uint32).reshape(2, 3))
    content = b"".join(encode_message(wave))
    assert content == server_message(wave)
    assert read_message(Bytes(content)) == wave


def test_texts_of_other_programs_are_read():
    assert read_message(Bytes(u("HI", 5, 3) + b"ab\0")) == Text("ab")
    assert read_message(Bytes(u("HI", 3, 6) + b"<h/>\0\0")) == Header(b"<h/>", terminated=True)
    assert read_message(Bytes(u("HI", 5, 2) + b"\xe9a")) == Text("\ufffda")
    assert read_message(Bytes(u("HI", 5, 0))) == Text("")
    name = b"a.xml\0leftovers".ljust(1024, b"x")
    assert read_message(Bytes(u("H", 1) + name)) == ConfigFile("a.xml")


def acquisition_head(**fields: int) -> bytes:
    head = ismrmrd.AcquisitionHeader()
    for name, value in fields.items():
        setattr(head, name, value)
    return u("H", 1008) + bytes(head)


def image_head(**fields: object) -> bytes:
    head = ismrmrd.ImageHeader()
    head.data_type, head.channels = 5, 1
    head.matrix_size[:] = (1, 1, 1)
    for name, value in fields.items():
        setattr(head, name, value)
    return u("H", 1022) + bytes(head)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (u("H", 999), "unknown identifier 999"),
        (u("H", 0), "unknown identifier 0"),
        (u("HI", 5, 2**32 - 1), "text of 4294967295 bytes"),
        (u("HI", 2, 2**31), "configuration of 2147483648 bytes"),
        (u("HI", 3, 2**31), "header of"),
        (u("HQ", 8, 2**40), "text of 1099511627776 bytes"),
        (u("HQQQ", 6, 0, 1, 2**40), "query of"),
        (u("HI", 1018, 0) + u("Q", 2**40), "file name of"),
        (image_head() + u("Q", 2**40), "meta document of 1099511627776 bytes"),
        (image_head() + u("Q", 4) + b"<no>" + bytes(4), "metadata of an image"),
        (image_head() + u("Q", 1) + b"\xff", "metadata of an image"),
        (image_head(data_type=77) + u("Q", 0), "IMAGE cannot be read"),
        (
            image_head(channels=65535, matrix_size=(ctypes.c_uint16 * 3)(65535, 65535, 65535))
            + u("Q", 0),
            "an image of",
        ),
        (acquisition_head(number_of_samples=65535, active_channels=65535), "an acquisition of"),
    ],
)
def test_invalid_messages_are_refused_before_memory_is_allocated(content, words):
    source = Bytes(content)
    with pytest.raises(ProtocolError, match=words):
        read_message(source, Limits(message=2**30))
    assert source.largest < 2**11


def test_truncated_message_is_not_a_regular_end():
    whole = b"".join(encode_message(readout(0, 0)))
    for stop in (1, 2, 100, 342, len(whole) - 1):
        with pytest.raises(ConnectionError) as caught:
            read_message(Bytes(whole[:stop]))
        assert not isinstance(caught.value, ConnectionEndedError)
    with pytest.raises(ConnectionEndedError):
        read_message(Bytes(b""))


def test_invalid_objects_are_not_sent():
    with pytest.raises(TypeError, match="dict is not a message"):
        encode_message({})
    with pytest.raises(ValueError, match="longer than the protocol allows"):
        encode_message(ConfigFile("x" * 1024))


WHOLE = b"".join(
    b"".join(encode_message(m)) for m in (*(m for m, _ in SIMPLE), readout(0, 0), image({"a": "b"}))
)


SMALL = Limits(text=2**12, header=2**12, configuration=2**12, meta=2**12, message=2**16)


def every_message(source: Bytes) -> None:
    while True:
        read_message(source, SMALL)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_garbage_raises_only_protocol_or_connection_errors(data):
    start = data.draw(st.integers(0, len(WHOLE)))
    patch = data.draw(st.binary(max_size=12))
    source = Bytes(WHOLE[:start] + patch + WHOLE[start + len(patch) :])
    with pytest.raises((ProtocolError, ConnectionError)):
        every_message(source)
    assert source.largest <= 2**16


@pytest.fixture
def pair():
    """A raw end and one of ours, connected over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    theirs.settimeout(DEADLINE)
    yield theirs, MessageSocket(ours)
    theirs.close()
    ours.close()


def test_long_messages_arrive_in_chunks(pair, monkeypatch):
    monkeypatch.setattr(message_socket, "_CHUNK", 50)
    theirs, ours = pair
    sent = readout(0, 0)
    sender = threading.Thread(target=theirs.sendall, args=(server_message(sent),))
    sender.start()
    assert ours.receive() == sent
    sender.join()


def test_disconnected_peer_is_reported(pair):
    theirs, ours = pair
    theirs.sendall(u("HI", 5, 10) + b"abc")
    theirs.close()
    with pytest.raises(ConnectionError, match="3 of 10"):
        ours.receive()
    assert ours.input_ended


def test_receive_times_out(pair):
    _, ours = pair
    with pytest.raises(ConnectionError, match="timed out"):
        ours.receive(timeout=0.01)


def test_sending_to_a_disconnected_peer_is_an_error(pair):
    theirs, ours = pair
    theirs.close()
    with pytest.raises(ConnectionError, match="has disconnected"):
        ours.send(Text("x" * 2**24))
    ours.close()


def test_inbox_receives_in_the_background(pair):
    theirs, ours = pair
    inbox = Inbox(ours)
    items = [readout(f, g) for g in range(50) for f in range(4)]
    theirs.sendall(b"".join(map(server_message, items)))
    eventually(lambda: len(inbox._waiting) == len(items), "not all messages arrive")
    theirs.sendall(u("H", 4))
    assert list(inbox) == items
    assert inbox.last_acquisition is not None


def test_full_inbox_blocks_the_peer(pair, monkeypatch):
    """It holds three messages, and a fourth until there is room."""
    theirs, ours = pair
    item = ismrmrd.Acquisition.from_array(np.ones((8, 60000), np.complex64))
    receive, received, used = ours.receive, [], []

    def next_message(**options):
        assert len(received) - len(used) <= 4
        received.append(receive(**options))
        return received[-1]

    monkeypatch.setattr(ours, "receive", next_message)
    inbox = Inbox(ours, limit=3 * item.data.nbytes)
    content = server_message(item)
    sender = threading.Thread(
        target=lambda: [theirs.sendall(content) for _ in range(20)] and theirs.sendall(u("H", 4)),
        daemon=True,
    )
    sender.start()
    eventually(lambda: len(received) == 4, "the inbox does not fill")
    assert sender.is_alive()
    used.extend(inbox)
    assert len(used) == 20
    sender.join(DEADLINE)


def test_inbox_that_holds_little_counts_what_was_taken(pair):
    """Its reader keeps nothing, and the next one is not received long before it."""
    theirs, ours = pair
    item = ismrmrd.Acquisition.from_array(np.ones((8, 60000), np.complex64))
    size = item.data.nbytes
    inbox = Inbox(ours)
    inbox.hold_little()
    content = server_message(item)
    sender = threading.Thread(
        target=lambda: [theirs.sendall(content) for _ in range(6)], daemon=True
    )
    sender.start()
    messages, held = iter(inbox), ours.received
    for _ in range(6):
        last = weakref.ref(next(messages))
        assert held.held >= size
        assert held.held < 4 * size
    reader = threading.Thread(target=lambda: list(messages), daemon=True)
    reader.start()
    eventually(lambda: last() is None, "the last message is held while the next one is awaited")
    eventually(lambda: held.held <= 2**16, "the last message counts while the next is awaited")
    theirs.sendall(u("H", 4))
    reader.join(DEADLINE)
    sender.join(DEADLINE)


def test_inbox_can_be_discarded(pair):
    theirs, ours = pair
    item = ismrmrd.Acquisition.from_array(np.ones((8, 60000), np.complex64))
    inbox = Inbox(ours, limit=1)
    sender = threading.Thread(
        target=theirs.sendall, args=(20 * server_message(item) + u("H", 4),), daemon=True
    )
    sender.start()
    inbox.discard()
    sender.join(DEADLINE)
    assert not sender.is_alive()
    assert list(inbox) == []


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        (u("H", 999), ProtocolError, "identifier 999"),
        (b"", ConnectionError, "without a CLOSE message"),
        (u("HI", 5, 10) + b"abc", ConnectionError, "3 of 10"),
    ],
)
def test_inbox_raises_the_error_after_earlier_messages(pair, end, error, words):
    theirs, ours = pair
    theirs.sendall(server_message(readout(0, 0)) + end)
    theirs.close()
    received = []
    with pytest.raises(error, match=words):
        received.extend(iter(Inbox(ours)))
    assert received == [readout(0, 0)]
