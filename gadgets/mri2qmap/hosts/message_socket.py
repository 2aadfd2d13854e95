"""Messages over a socket, and messages received ahead of their use."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator

import ismrmrd

from mri2qmap.hosts.protocol import (
    DEFAULT_LIMITS,
    Close,
    ConnectionEndedError,
    Limits,
    Message,
    Part,
    encode_message,
    message_bytes,
    read_message,
)

_CHUNK = 2**24
"""Bytes for which memory is taken at a time: a length alone takes none."""
HANDSHAKE_TIMEOUT = 60.0
"""Seconds in which whoever connects to a server must say what it wants."""
CONNECT_TIMEOUT = 10.0
"""Seconds in which a server must answer."""
_LINGER = 2.0
"""Seconds that a peer has to hang up after the last message."""
_JOINED = 2**16
"""Messages up to this size are sent in one piece [bytes]."""


class MessageSocket:
    """Sends and receives messages.

    Parameters
    ----------
    connection
        A connected socket, which it takes over.
    limits
        What is believed of the peer's messages.

    Attributes
    ----------
    hung_up
        Set when the peer will send nothing more, not even after it said CLOSE: it has gone away,
        or has closed its half of the connection.
    """

    def __init__(self, connection: socket.socket, limits: Limits = DEFAULT_LIMITS) -> None:
        self.hung_up = threading.Event()
        self._socket = connection
        self._limits = limits
        self._sending = threading.Lock()
        with contextlib.suppress(OSError):  # a socket pair has no such option
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, n_bytes: int) -> Part:
        """See `mri2qmap.hosts.protocol.Source`."""
        content = bytearray(min(n_bytes, _CHUNK))
        done = 0
        while done < n_bytes:
            if done == len(content):
                content.extend(bytes(min(n_bytes - done, _CHUNK)))
            try:
                with memoryview(content) as view:
                    received = self._socket.recv_into(view[done:])
            except OSError as error:
                self.hung_up.set()
                raise ConnectionError(str(error)) from error
            if received == 0:
                self.hung_up.set()
                if done == 0:
                    raise ConnectionEndedError("the peer closed the connection")
                raise ConnectionError(
                    f"the peer closed the connection: {done} of {n_bytes} bytes arrived"
                )
            done += received
        return content

    def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next message.

        Parameters
        ----------
        timeout
            Seconds to wait for each of its parts; None: for ever.

        Raises
        ------
        ProtocolError, ConnectionEndedError, ConnectionError
            As `read_message`; ConnectionError also when nothing comes in time.
        """
        self._socket.settimeout(timeout)
        return read_message(self, self._limits)

    def send(self, message: Message) -> None:
        """Send a message; several threads may do so.

        Raises
        ------
        ConnectionError
            When the peer has gone away.
        """
        parts = encode_message(message)
        if sum(len(part) for part in parts) <= _JOINED:
            parts = [b"".join(parts)]
        try:
            with self._sending:
                for part in parts:
                    self._socket.sendall(part)
        except OSError as error:
            self.hung_up.set()
            raise ConnectionError(f"the peer has gone away ({error})") from error

    def wait_for_hang_up(self) -> None:
        """Wait until the peer goes away, passing over what it still sends."""
        with contextlib.suppress(OSError, ValueError):  # closed by us meanwhile
            while self._socket.recv(2**16):
                pass
        self.hung_up.set()

    def abort(self) -> None:
        """Break the connection: who waits for a message of it, an inbox too, gets an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close without a word."""
        self.abort()
        self._socket.close()

    def close(self) -> None:
        """Say that no more comes, if there is someone to be told, and close."""
        if self._socket.fileno() < 0:
            return
        with contextlib.suppress(ConnectionError):
            self.send(Close())
            self._linger()
        self.drop()

    def _linger(self) -> None:
        """Let the peer read what was sent: closing while it still sends would throw that away."""
        end = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while not self.hung_up.is_set() and (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(2**16):
                    return


class Inbox:
    """The messages of a peer, received by a thread of their own while earlier ones are used.

    Iterating yields them until the peer says CLOSE. What it then raises, if anything, is what ended
    the stream: it comes after all messages that arrived before it.

    Parameters
    ----------
    peer
        Where they come from; nobody else may receive from it.
    limit
        Bytes that may wait; the peer must wait when there are more.

    Attributes
    ----------
    last_acquisition
        When the last acquisition arrived (`time.perf_counter`); None before the first.
    """

    def __init__(self, peer: MessageSocket, limit: int = 2**31) -> None:
        self.last_acquisition: float | None = None
        self._peer = peer
        self._limit = limit
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._ended = False
        self._discarding = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._receive, name="inbox", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Message]:
        """Yield messages as they come."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                message = self._waiting.popleft()
                self._bytes -= message_bytes(message)
                self._changed.notify_all()
            yield message
        if self._error is not None:
            raise self._error

    def discard(self, timeout: float | None = None) -> None:
        """Drop what has come and what still comes, until the stream ends or for so many seconds."""
        with self._changed:
            self._discarding = True
            self._waiting.clear()
            self._bytes = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended, timeout)

    def _receive(self) -> None:
        error: BaseException | None = None
        try:
            while not isinstance(message := self._peer.receive(), Close):
                if isinstance(message, ismrmrd.Acquisition):
                    self.last_acquisition = time.perf_counter()
                self._put(message)
        except ConnectionEndedError:
            error = ConnectionError("the peer closed the connection without a word of the end")
        except BaseException as problem:  # whoever reads must not wait for ever
            error = problem
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()
        self._peer.wait_for_hang_up()

    def _put(self, message: Message) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < self._limit or self._discarding)
            if not self._discarding:
                self._waiting.append(message)
                self._bytes += message_bytes(message)
                self._changed.notify_all()


def connect(address: str, port: int) -> MessageSocket:
    """Connect to a server, which may have been started just now.

    Parameters
    ----------
    address, port
        Where it listens.

    Raises
    ------
    ConnectionError
        When nobody answers in time.
    """
    end = time.monotonic() + CONNECT_TIMEOUT
    while True:
        left = max(0.1, end - time.monotonic())
        try:
            # A lost wake-up of a server's acceptor can leave a connection hanging: try anew.
            connection = socket.create_connection((address, port), min(left, 5.0))
            connection.settimeout(None)
            return MessageSocket(connection)
        except OSError as error:
            if time.monotonic() >= end:
                raise ConnectionError(
                    f"{address}:{port}: no server answers ({error.strerror or error})"
                ) from error
            time.sleep(0.2)
