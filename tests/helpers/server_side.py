"""The server's side of an external node, written from the wire's description, byte by byte."""

from __future__ import annotations

import io
import socket
import struct
from dataclasses import dataclass, field

import ismrmrd

CONFIG, HEADER, CLOSE, ERROR = 2, 3, 4, 8
ACQUISITION, IMAGE, WAVEFORM = 1008, 1022, 1026
KINDS = {ismrmrd.Acquisition: ACQUISITION, ismrmrd.Image: IMAGE, ismrmrd.Waveform: WAVEFORM}


def configuration(**properties: object) -> bytes:
    inner = "".join(f'<property name="{k}" value="{v}" />\n' for k, v in properties.items())
    return f'<?xml version="1.0"?>\n<configuration>\n{inner}</configuration>\n'.encode()


def message(item: object) -> bytes:
    content = io.BytesIO()
    item.serialize_into(content.write)
    return struct.pack("<H", KINDS[type(item)]) + content.getvalue()


def conversation(config: bytes, header: str, items: list, end: bytes | None = None) -> bytes:
    """All that a server sends in one session."""
    text = header.encode()
    return b"".join(
        [
            struct.pack("<HI", CONFIG, len(config)) + config,
            struct.pack("<HI", HEADER, len(text)) + text,
            *map(message, items),
            struct.pack("<H", CLOSE) if end is None else end,
        ]
    )


@dataclass
class Answer:
    """All that a node sends in one session."""

    items: list = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    closed: bool = False


def read_answer(connection: socket.socket) -> Answer:
    """Read until the node closes; anything but whole messages is an error of the test."""
    with connection.makefile("rb") as stream:
        return _read_answer(stream)


def _read_answer(stream: io.BufferedReader) -> Answer:
    answer = Answer()

    def exactly(n: int) -> bytes:
        content = stream.read(n)
        assert len(content) == n, "the node stopped within a message"
        return content

    while True:
        identifier = stream.read(2)
        if identifier == b"":
            return answer
        assert not answer.closed, "the node goes on after CLOSE"
        (number,) = struct.unpack("<H", identifier)
        if number == CLOSE:
            answer.closed = True
        elif number == ERROR:
            (length,) = struct.unpack("<Q", exactly(8))
            answer.errors.append(exactly(length).decode())
        else:
            kind = {v: k for k, v in KINDS.items()}[number]
            answer.items.append(kind.deserialize_from(exactly))
