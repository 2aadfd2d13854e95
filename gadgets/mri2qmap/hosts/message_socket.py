"""Messages over a socket, and a queue of received messages."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator

import ismrmrd

from mri2qmap.hosts.message_limits import DEFAULT_LIMITS, Limits
from mri2qmap.hosts.protocol import (
    Close,
    ConnectionEndedError,
    CutOffError,
    Message,
    Part,
    encode_message,
    message_bytes,
    read_message,
)

_CHUNK = 2**24
"""Memory allocated at a time [bytes]: an announced length alone allocates none."""
HANDSHAKE_TIMEOUT = 60.0
"""Time within which a client must send each of its first messages [s]."""
CONNECT_TIMEOUT = 10.0
"""Time within which a server must accept a connection [s]."""
_LINGER = 2.0
"""Time for which a closing connection waits for the peer to disconnect [s]."""
_JOINED = 2**16
"""Messages up to this size are sent with one call [bytes]."""


class MessageSocket:
    """Sends and receives messages.

    Parameters
    ----------
    connection
        Connected socket; owned by this object from now on.
    limits
        Size limits of received messages.

    Attributes
    ----------
    hung_up
        Set when the peer has disconnected or closed its half of the connection. A CLOSE message
        alone does not set it.
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
                raise CutOffError(
                    f"the peer closed the connection: {done} of {n_bytes} bytes arrived"
                )
            done += received
        return content

    def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next message.

        Parameters
        ----------
        timeout
            Time to wait for each part of the message [s]; None: no limit.

        Raises
        ------
        ProtocolError, ConnectionEndedError, ConnectionError
            See `read_message`; ConnectionError also after a timeout.
        """
        self._socket.settimeout(timeout)
        return read_message(self, self._limits)

    def send(self, message: Message) -> None:
        """Send a message. May be called from several threads.

        Raises
        ------
        ConnectionError
            If the peer has disconnected.
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
            raise ConnectionError(f"the peer has disconnected ({error})") from error

    def wait_for_hang_up(self) -> None:
        """Wait until the peer disconnects; discard the data that it still sends."""
        with contextlib.suppress(OSError, ValueError):  # closed by another thread
            while self._socket.recv(2**16):
                pass
        self.hung_up.set()

    def abort(self) -> None:
        """Shut down the connection; waiting receivers, including an `Inbox`, get an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close the connection without a CLOSE message."""
        self.abort()
        self._socket.close()

    def close(self) -> None:
        """Send a CLOSE message if the peer is still connected, and close the connection."""
        if self._socket.fileno() < 0:
            return
        with contextlib.suppress(ConnectionError):
            self.send(Close())
            self._linger()
        self.drop()

    def _linger(self) -> None:
        """Wait until the peer has read the last messages.

        Closing a socket with unread input resets the connection, and the peer would lose them.
        """
        end = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while not self.hung_up.is_set() and (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(2**16):
                    return


class Inbox:
    """Queue of received messages, filled by a background thread.

    Iterating yields the messages up to CLOSE. If an error ended the stream, it is raised after all
    messages that arrived before it.

    Parameters
    ----------
    peer
        Connection to receive from; only the inbox may receive from it.
    limit
        Maximum size of the queue [bytes]; receiving pauses while it is full.

    Attributes
    ----------
    last_acquisition
        Time at which the last acquisition arrived (`time.perf_counter`); None before the first.
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
        """Yield messages as they arrive."""
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
        """Discard queued and later messages until the stream ends.

        Parameters
        ----------
        timeout
            Maximum time to wait for the end of the stream [s]; None: no limit.
        """
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
            error = CutOffError("the peer closed the connection without a CLOSE message")
        except BaseException as problem:  # otherwise the reader would wait forever
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
    """Connect to a server; retry while it starts up.

    Parameters
    ----------
    address, port
        Address and port of the server.

    Raises
    ------
    ConnectionError
        If no server accepts the connection within `CONNECT_TIMEOUT`.
    """
    end = time.monotonic() + CONNECT_TIMEOUT
    while True:
        left = max(0.1, end - time.monotonic())
        try:
            # A connection can hang if the server's accept loop misses it: try again.
            connection = socket.create_connection((address, port), min(left, 5.0))
            connection.settimeout(None)
            return MessageSocket(connection)
        except OSError as error:
            if time.monotonic() >= end:
                raise ConnectionError(
                    f"{address}:{port}: no server is listening ({error.strerror or error})"
                ) from error
            time.sleep(0.2)
