"""Peers that hold a server, each on a connection of its own, for as long as the context is active.

Each function takes the port and what a good client or server sends first (configuration and
header). None of them waits for the server, except where its kernel refuses more data.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import ismrmrd
from helpers.live import CLOSE, DEADLINE, data
from helpers.scans import acquisitions
from helpers.server_side import message as item_bytes

HostilePeer = Callable[[int, bytes], AbstractContextManager[socket.socket]]
ENDED = "ended"
TCP_REPAIR = 19
"""Option of Linux: a socket in this mode is closed without a word to the peer."""


@contextmanager
def connected(port: int, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(DEADLINE)
        connection.connect(("127.0.0.1", port))
        yield connection


@contextmanager
def beside(
    work: Callable[[socket.socket], None], connection: socket.socket, left: threading.Event
) -> Iterator[None]:
    """Let a thread work on a connection until the context is left, which sets the event."""
    thread = threading.Thread(target=work, args=(connection,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # the thread may wait for it
        thread.join(DEADLINE)


@contextmanager
def silent(port: int, first: bytes) -> Iterator[socket.socket]:
    """Connects and sends nothing."""
    with connected(port) as connection:
        yield connection


@contextmanager
def partial_opening(port: int, first: bytes) -> Iterator[socket.socket]:
    """Sends half of the configuration."""
    with connected(port) as connection:
        connection.sendall(first[:40])
        yield connection


@contextmanager
def trickle(port: int, first: bytes, interval: float = 0.05) -> Iterator[socket.socket]:
    """Sends a byte of the configuration now and then."""
    left = threading.Event()

    def send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for byte in first:
                connection.sendall(bytes([byte]))
                if left.wait(interval):
                    return

    with connected(port) as connection, beside(send, connection, left):
        yield connection


@contextmanager
def idle_after_header(port: int, first: bytes) -> Iterator[socket.socket]:
    """Sends configuration and header, and then nothing."""
    with connected(port) as connection:
        connection.sendall(first)
        yield connection


@contextmanager
def idle_within_scan(port: int, first: bytes) -> Iterator[socket.socket]:
    """Loses its network after half of the scan: neither data nor the end of the connection come."""
    half = data()
    with connected(port) as connection:
        connection.sendall(first + half[: len(half) // 2])
        yield connection


@contextmanager
def drip(port: int, first: bytes, interval: float = 0.4) -> Iterator[socket.socket]:
    """Sends an acquisition of the scan now and then."""
    left = threading.Event()

    def send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for acquisition in acquisitions():
                connection.sendall(item_bytes(acquisition))
                if left.wait(interval):
                    return

    with connected(port) as connection:
        connection.sendall(first)
        with beside(send, connection, left):
            yield connection


@contextmanager
def huge_announcement(port: int, first: bytes) -> Iterator[socket.socket]:
    """Announces an image of 10 GiB."""
    head = ismrmrd.ImageHeader()
    head.data_type, head.channels = ismrmrd.DATATYPE_FLOAT, 1
    head.matrix_size[:] = 1376, 1376, 1376
    with connected(port) as connection:
        connection.sendall(first + struct.pack("<H", 1022) + bytes(head) + bytes(8))
        yield connection


@contextmanager
def never_reads(port: int, first: bytes) -> Iterator[socket.socket]:
    """Sends a whole scan and reads nothing."""
    with connected(port, receive_buffer=4096) as connection:
        connection.sendall(first + data() + CLOSE)
        yield connection


@contextmanager
def reads_a_little(port: int, first: bytes, interval: float = 0.02) -> Iterator[socket.socket]:
    """Sends a whole scan and reads 4 KiB of the answer now and then."""
    left = threading.Event()

    def read(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(4096) and not left.wait(interval):
                pass

    with never_reads(port, first) as connection, beside(read, connection, left):
        yield connection


@contextmanager
def half_close_without_close(port: int, first: bytes) -> Iterator[socket.socket]:
    """Ends its sending half within the scan, without CLOSE."""
    with connected(port) as connection:
        connection.sendall(first + data())
        connection.shutdown(socket.SHUT_WR)
        yield connection


@contextmanager
def garbage(port: int, first: bytes) -> Iterator[socket.socket]:
    """Speaks another protocol."""
    with connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        yield connection


HOSTILE_PEERS: dict[str, HostilePeer] = {
    peer.__name__: peer
    for peer in (
        silent,
        partial_opening,
        trickle,
        idle_after_header,
        idle_within_scan,
        huge_announcement,
        never_reads,
        half_close_without_close,
        garbage,
    )
}


@contextmanager
def crowd(peer: HostilePeer, count: int, port: int, first: bytes) -> Iterator[list[socket.socket]]:
    """Many connections of one kind."""
    with ExitStack() as peers:
        yield [peers.enter_context(peer(port, first)) for _ in range(count)]


def vanish(connection: socket.socket) -> bool:
    """Close a connection as a machine without power does; return whether the system allows it."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except OSError:
        return False
    connection.close()
    return True


def remaining(connection: socket.socket) -> bytes:
    """Everything that the server still sends until it ends the connection."""
    content = b""
    end = time.monotonic() + DEADLINE
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(2**16):
            content += part
            assert time.monotonic() < end, "the server does not end the connection"
    return content
