"""Servers of ours on free ports, and raw clients, for the tests."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from stream.scans import acquisitions, header
from stream.server_side import message as item_bytes

from mri2qmap.stream.listener import Listener
from mri2qmap.stream.memory_plan import MemoryBudget
from mri2qmap.stream.message_socket import MessageSocket
from mri2qmap.stream.protocol import Close, Message
from mri2qmap.stream.serving import ScanServer
from mri2qmap.stream.worker import Worker

DEADLINE = 30
PLENTY = 2**40


@contextmanager
def listening(serve) -> Iterator[Listener]:
    listener = Listener("127.0.0.1", 0, serve)
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()
        listener.abort()
        assert listener.wait(DEADLINE), "a connection does not end"


@contextmanager
def scan_server(budget: MemoryBudget | None = None) -> Iterator[Listener]:
    server = ScanServer(budget or MemoryBudget(PLENTY), "cpu")
    with listening(server.serve) as listener:
        yield listener


@contextmanager
def running_worker(budget: MemoryBudget | None = None) -> Iterator[tuple[Listener, Worker]]:
    worker = Worker(budget or MemoryBudget(PLENTY), "cpu")
    with listening(worker.serve) as listener:
        yield listener, worker
    worker.references.close()


def dial(listener: Listener) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", listener.port))
    connection.settimeout(DEADLINE)
    return connection


def receive_all(connection: socket.socket) -> list[Message]:
    """Everything up to CLOSE."""
    peer = MessageSocket(connection)
    received: list[Message] = []
    while True:
        message = peer.receive(DEADLINE)
        if isinstance(message, Close):
            return received
        received.append(message)


def counted(identifier: int, content: bytes) -> bytes:
    return struct.pack("<HI", identifier, len(content)) + content


def opening(document: bytes, xml: str | None = None) -> bytes:
    """CONFIG and HEADER."""
    return counted(2, document) + counted(3, (header() if xml is None else xml).encode())


def data(items: list | None = None) -> bytes:
    return b"".join(map(item_bytes, acquisitions() if items is None else items))


CLOSE = struct.pack("<H", 4)
